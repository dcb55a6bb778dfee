/** lutra.c: the functions of lutra.h on top of the generated model.c. */

/** What lutra.c is told of a model. */
export interface StandaloneModel {
  readonly name: string;
  readonly context: number;
  readonly vocab: number;
  readonly logitsStride: number;
  /** Any of these ends a text. */
  readonly endTokens: readonly number[];
  /** Tokens of some steps, and the digest of all their logits. */
  readonly steps: { readonly tokens: readonly (readonly number[])[]; readonly digest: string };
}

function constants(model: StandaloneModel): string {
  const { context, vocab, logitsStride, endTokens, steps } = model;
  const name = model.name.replace(/[^\x20-\x7e]/g, '?').replace(/["\\]/g, '\\$&');
  const tokens = steps.tokens.flat();
  const lengths = steps.tokens.map((step) => step.length);
  const list = (values: readonly number[]) => values.join(', ');
  return `\
#define MODEL_NAME "${name}"
#define VOCABULARY ${vocab}
#define LOGITS_STRIDE ${logitsStride}
#define CONTEXT ${context}
#define END_TOKEN_COUNT ${endTokens.length}
/* C has no empty arrays: the last entry is never looked at. */
static const i32 END_TOKENS[] = {${list([...endTokens, -1])}};

/* Steps, and the digest of all their logits. */
#define CHECK_ROWS ${Math.max(...lengths)}
static const i32 CHECK_LENGTHS[] = {${list(lengths)}};
static const i32 CHECK_TOKENS[] = {${list(tokens)}};
#define CHECK_DIGEST "${steps.digest}"
`;
}

const BEFORE = `\
/*
 * The functions of lutra.h. The generated model.c is part of this file; what it exports elsewhere is private here.
 */
#define EXPORT static __attribute__((unused))
#include "model.c"

#include "lutra.h"

#if defined(__linux__)
#include <sched.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

/* Tests give another folder, and few tokens. */
#if !defined(LUTRA_SYSFS_CPU)
#define LUTRA_SYSFS_CPU "/sys/devices/system/cpu"
#endif
#if !defined(CHUNK)
#define CHUNK 256 /* tokens that one call of the generated code gets; results do not depend on it */
#endif

`;

const AFTER = `
struct lutra_model {
  Model *core;
  i32 threads;
};

struct lutra_session {
  lutra_model *model;
  i32 cache;
  i32 position;
  int has_logits;
  f32 *logits;
  i32 outputs[CHUNK + 2];
};

const char *lutra_status_text(lutra_status status) {
  switch (status) {
    case LUTRA_OK: return "ok";
    case LUTRA_ERROR_ARGUMENT: return "an argument is out of range";
    case LUTRA_ERROR_FILE: return "the weights cannot be read or are those of another model";
    case LUTRA_ERROR_MEMORY: return "not enough memory or threads";
    case LUTRA_ERROR_PROCESSOR: return "this processor cannot run that variant, or there is none of this name";
    case LUTRA_ERROR_CONTEXT: return "the context is full";
    case LUTRA_ERROR_RESULT: return "the model computes wrong results here";
  }
  return "unknown status";
}

const lutra_info *lutra_get_info(void) {
  static const lutra_info info = {
      .name = MODEL_NAME,
      .vocabulary = VOCABULARY,
      .context = CONTEXT,
      .weights_bytes = WEIGHTS_BYTES,
      .working_bytes = (i64)ARENA_BYTES,
      .session_bytes = (i64)CACHE_BYTES,
      .end_tokens = END_TOKENS,
      .end_token_count = END_TOKEN_COUNT,
  };
  return &info;
}

#if defined(__linux__)
/* The number that a file of sysfs begins with, or a default. */
static long cpu_fact(int cpu, const char *name, long otherwise) {
  char path[512];
  snprintf(path, sizeof path, "%s/cpu%d/%s", LUTRA_SYSFS_CPU, cpu, name);
  FILE *file = fopen(path, "r");
  if (file == NULL) return otherwise;
  long value;
  if (fscanf(file, "%ld", &value) != 1) value = otherwise;
  fclose(file);
  return value;
}

i32 lutra_default_threads(void) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  long capacity[CPU_SETSIZE], most = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    capacity[cpu] = 0;
    /* Of hardware threads that share a core, the first counts. */
    if (!CPU_ISSET(cpu, &allowed) || cpu_fact(cpu, "topology/thread_siblings_list", cpu) != cpu) continue;
    capacity[cpu] = cpu_fact(cpu, "cpu_capacity", 1024);
    if (capacity[cpu] > most) most = capacity[cpu];
  }
  /* A small core has a third of a big one's capacity or less; every barrier would wait for it. */
  i32 threads = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) threads += most > 0 && 2 * capacity[cpu] >= most;
  return threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
}
#else
i32 lutra_default_threads(void) {
  long threads = 0;
#if defined(__APPLE__)
  int fast = 0;
  size_t size = sizeof fast;
  if (sysctlbyname("hw.perflevel0.physicalcpu", &fast, &size, NULL, 0) == 0) threads = fast;
#endif
  if (threads < 1) threads = sysconf(_SC_NPROCESSORS_ONLN);
  return threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : (i32)threads;
}
#endif

/* The best variant that this processor runs: there always is one. */
static const char *best_variant(void) {
  size_t i = 0;
  while (!VARIANTS[i].supported()) i++;
  return VARIANTS[i].name;
}

lutra_status lutra_load(const char *weights, const lutra_options *options, lutra_model **model) {
  if (model == NULL) return LUTRA_ERROR_ARGUMENT;
  *model = NULL;
  const i32 asked = options == NULL ? 0 : options->threads;
  if (weights == NULL || asked < 0 || asked > MAX_THREADS) return LUTRA_ERROR_ARGUMENT;
  const char *variant = options == NULL || options->variant == NULL ? best_variant() : options->variant;
  if (lutra_supported(variant) != 1) return LUTRA_ERROR_PROCESSOR;
  struct stat info;
  if (*weights == 0 || stat(weights, &info) != 0 || info.st_size != WEIGHTS_BYTES || access(weights, R_OK) != 0) {
    return LUTRA_ERROR_FILE;
  }
  lutra_model *made = malloc(sizeof *made);
  if (made == NULL) return LUTRA_ERROR_MEMORY;
  char message[256];
  made->threads = asked > 0 ? asked : lutra_default_threads();
  made->core = lutra_open(weights, variant, made->threads, message, sizeof message);
  if (made->core == NULL) {
    free(made);
    return LUTRA_ERROR_MEMORY;
  }
  *model = made;
  return LUTRA_OK;
}

void lutra_free(lutra_model *model) {
  if (model == NULL) return;
  lutra_close(model->core);
  free(model);
}

const char *lutra_variant(const lutra_model *model) { return model->core->variant->name; }
i32 lutra_threads(const lutra_model *model) { return model->threads; }

lutra_status lutra_session_new(lutra_model *model, lutra_session **session) {
  if (session == NULL) return LUTRA_ERROR_ARGUMENT;
  *session = NULL;
  if (model == NULL) return LUTRA_ERROR_ARGUMENT;
  lutra_session *made = calloc(1, sizeof *made);
  f32 *logits = calloc(LOGITS_STRIDE, sizeof *logits);
  const i32 cache = made == NULL || logits == NULL ? -1 : lutra_cache_new(model->core);
  if (cache < 0) {
    free(made);
    free(logits);
    return LUTRA_ERROR_MEMORY;
  }
  made->model = model;
  made->cache = cache;
  made->logits = logits;
  *session = made;
  return LUTRA_OK;
}

void lutra_session_free(lutra_session *session) {
  if (session == NULL) return;
  lutra_cache_free(session->model->core, session->cache);
  free(session->logits);
  free(session);
}

lutra_status lutra_session_step(lutra_session *session, const i32 *tokens, i32 count) {
  if (session == NULL || tokens == NULL || count < 1) return LUTRA_ERROR_ARGUMENT;
  for (i32 i = 0; i < count; i++) {
    if (tokens[i] < 0 || tokens[i] >= VOCABULARY) return LUTRA_ERROR_ARGUMENT;
  }
  if (count > CONTEXT - session->position) return LUTRA_ERROR_CONTEXT;
  for (i32 at = 0; at < count; at += CHUNK) {
    const i32 n = count - at < CHUNK ? count - at : CHUNK;
    const i32 sequence[4] = {0, n, session->position, session->cache};
    /* Logits are wanted of the very last token alone. */
    memset(session->outputs, 0, sizeof session->outputs);
    session->outputs[n] = at + n == count;
    lutra_step(session->model->core, tokens + at, n, sequence, 1, session->outputs, session->logits);
    session->position += n;
  }
  session->has_logits = 1;
  return LUTRA_OK;
}

const float *lutra_session_logits(const lutra_session *session) {
  return session != NULL && session->has_logits ? session->logits : NULL;
}

i32 lutra_session_position(const lutra_session *session) { return session == NULL ? 0 : session->position; }

lutra_status lutra_session_rewind(lutra_session *session, i32 position) {
  if (session == NULL || position < 0 || position > session->position) return LUTRA_ERROR_ARGUMENT;
  session->position = position;
  session->has_logits = 0;
  return LUTRA_OK;
}

/* FNV-1a, twice with different primes. */
static void add_to_digest(u32 digest[2], const void *bytes, size_t count) {
  for (size_t i = 0; i < count; i++) {
    digest[0] = (digest[0] ^ ((const u8 *)bytes)[i]) * 0x01000193u;
    digest[1] = (digest[1] ^ ((const u8 *)bytes)[i]) * 0x01000197u;
  }
}

lutra_status lutra_check(lutra_model *model) {
  if (model == NULL) return LUTRA_ERROR_ARGUMENT;
  f32 *logits = calloc((size_t)CHECK_ROWS * LOGITS_STRIDE, sizeof *logits);
  const i32 cache = logits == NULL ? -1 : lutra_cache_new(model->core);
  if (cache < 0) {
    free(logits);
    return LUTRA_ERROR_MEMORY;
  }
  u32 digest[2] = {0x811c9dc5u, 0x2f0b4c47u};
  i32 position = 0;
  for (size_t step = 0; step < sizeof CHECK_LENGTHS / sizeof *CHECK_LENGTHS; step++) {
    const i32 n = CHECK_LENGTHS[step];
    const i32 sequence[4] = {0, n, position, cache};
    i32 outputs[CHECK_ROWS + 2] = {0};
    for (i32 i = 0; i <= n; i++) outputs[i] = i;
    lutra_step(model->core, CHECK_TOKENS + position, n, sequence, 1, outputs, logits);
    for (i32 row = 0; row < n; row++) {
      add_to_digest(digest, logits + (size_t)row * LOGITS_STRIDE, VOCABULARY * sizeof *logits);
    }
    position += n;
  }
  lutra_cache_free(model->core, cache);
  free(logits);
  char found[17];
  snprintf(found, sizeof found, "%08x%08x", (unsigned)digest[0], (unsigned)digest[1]);
  return strcmp(found, CHECK_DIGEST) == 0 ? LUTRA_OK : LUTRA_ERROR_RESULT;
}
`;

export function standaloneLibrary(model: StandaloneModel): string {
  return BEFORE + constants(model) + AFTER;
}
