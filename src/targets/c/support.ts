/**
 * The C that is the same in every artifact: what no kernel of the loop IR can express. Everything is static,
 * so that two libraries in one process know nothing of each other; only `lutra_*` is exported.
 */

/** Includes and the few types and macros that everything else is written with. */
export const PRELUDE = `\
#if defined(_WIN32)
#error "lutra: native code for Windows is not supported yet; use the wasm target"
#endif
#if !defined(__GNUC__)
#error "lutra: this file needs the vector extensions of GCC or Clang"
#endif
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "lutra: weights are stored little endian"
#endif
#if defined(__FAST_MATH__)
#error "lutra: results must be exact; compile without -ffast-math"
#endif
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

typedef int8_t i8;
typedef uint8_t u8;
typedef int16_t i16;
typedef uint16_t u16;
typedef int32_t i32;
typedef uint32_t u32;
typedef int64_t i64;
typedef uint64_t u64;
typedef float f32;

#define EXPORT __attribute__((visibility("default")))
#define UNUSED __attribute__((unused))
#define INLINE UNUSED static inline __attribute__((always_inline))
#define KERNEL static __attribute__((noinline))

/* Iterations begin .. end of a kernel's thread loop. */
typedef struct {
  i32 begin, end;
} Range;
`;

/** Which instruction sets this compilation has, and their headers. LUTRA_EMULATE is for tests on lesser processors. */
export const INSTRUCTION_SETS = `\
/*
 * Each variant is compiled for its instruction set function by function, so that the file needs no -march and
 * the library loads on any processor. LUTRA_EMULATE names a header with portable intrinsics to use instead,
 * which is how variants are tested on processors that lack them.
 */
#if defined(LUTRA_EMULATE)
#include LUTRA_EMULATE
#define VECTORS 1
#define TARGET(features)
#elif defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define VECTORS 1
#define TARGET(features) __attribute__((target(features)))
#else
#define VECTORS 0
#endif

#if VECTORS && (__clang_major__ >= 12 || (!defined(__clang__) && __GNUC__ >= 11))
#define HAVE_AVXVNNI 1
#endif
`;

/** Selecting lanes by constant index, -1 for a lane of no interest. */
export const SHUFFLE = `\
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(type, a, ...) ((type)__builtin_shufflevector(a, a, __VA_ARGS__))
#endif
#endif
#if !defined(SHUFFLE)
#define SHUFFLE(type, a, ...)                                                                       \\
  ({                                                                                                \\
    static const int index_[] = {__VA_ARGS__};                                                      \\
    type r_;                                                                                        \\
    for (size_t i_ = 0; i_ < sizeof index_ / sizeof *index_; i_++) {                                \\
      r_[i_] = a[index_[i_] < 0 ? 0 : index_[i_]];                                                  \\
    }                                                                                               \\
    r_;                                                                                             \\
  })
#endif
`;

/** A team of threads that runs one forward step after another. */
export const THREADS = `\
/*
 * Threads. The caller of a step is thread 0; the others are made when the model is opened and wait between
 * steps. Whoever waits spins for a moment, because the wait is mostly short, and then sleeps, because on a
 * busy machine the one waited for may need this very core. Where spinning was in vain several times in a row,
 * it is only tried now and then.
 */
#define SPIN_NANOSECONDS 40000
#define VAIN_SPINS 4
#define SPIN_EVERY 16
#define MAX_THREADS 256

typedef struct Team Team;

typedef struct {
  _Alignas(64) Team *team;
  i32 id;
  u32 vain; /* waits since spinning last helped */
  u8 *scratch; /* the local arrays of kernels */
  pthread_t handle;
} Thread;

typedef struct {
  const u8 *weights;
  u8 *cache;
  const i32 *tokens;
  f32 *logits;
  i32 n, pos, all;
} Step;

struct Team {
  i32 size;
  const struct Model *model;
  Step step;
  int quit;
  Thread threads[MAX_THREADS];
#if !defined(__linux__)
  pthread_mutex_t mutex;
  pthread_cond_t changed;
#endif
  /* Each in a cache line of its own. */
  _Alignas(64) _Atomic u32 steps;    /* given to the team so far */
  _Alignas(64) _Atomic u32 arrived;  /* threads at the barrier */
  _Alignas(64) _Atomic u32 barriers; /* passed so far */
  _Alignas(64) _Atomic u32 sleepers; /* threads asleep on one of the counters */
};

static void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static i64 nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (i64)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Whether *counter changed from seen while this thread looked at it again and again. */
static int spin(_Atomic u32 *counter, u32 seen) {
  i64 deadline = 0;
  for (i64 now = 0; now <= deadline; now = nanoseconds()) {
    for (int i = 0; i < 64; i++) {
      if (atomic_load_explicit(counter, memory_order_acquire) != seen) return 1;
      relax();
    }
    if (deadline == 0) deadline = nanoseconds() + SPIN_NANOSECONDS;
  }
  return 0;
}

/* Returns when *counter is no longer seen. */
static void await_change(Thread *thread, _Atomic u32 *counter, u32 seen) {
  Team *team = thread->team;
  if (thread->vain < VAIN_SPINS || thread->vain % SPIN_EVERY == 0) {
    if (spin(counter, seen)) {
      thread->vain = 0;
      return;
    }
  }
  thread->vain++;
  /* Counting sleepers before looking again, while advance() looks at them after counting: none is missed. */
  atomic_fetch_add(&team->sleepers, 1);
#if defined(__linux__)
  while (atomic_load(counter) == seen) {
    syscall(SYS_futex, counter, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
  }
#else
  pthread_mutex_lock(&team->mutex);
  while (atomic_load(counter) == seen) pthread_cond_wait(&team->changed, &team->mutex);
  pthread_mutex_unlock(&team->mutex);
#endif
  atomic_fetch_sub(&team->sleepers, 1);
}

/* Counts up and wakes those who wait for it. */
static void advance(Team *team, _Atomic u32 *counter) {
  atomic_fetch_add(counter, 1);
  if (atomic_load(&team->sleepers) == 0) return;
#if defined(__linux__)
  syscall(SYS_futex, counter, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
#else
  pthread_mutex_lock(&team->mutex);
  pthread_cond_broadcast(&team->changed);
  pthread_mutex_unlock(&team->mutex);
#endif
}

/* Waits until every thread of the team is here. */
static void barrier(Thread *thread) {
  Team *team = thread->team;
  if (team->size == 1) return;
  const u32 seen = atomic_load_explicit(&team->barriers, memory_order_relaxed);
  if (atomic_fetch_add(&team->arrived, 1) + 1 == (u32)team->size) {
    atomic_store(&team->arrived, 0);
    advance(team, &team->barriers);
  } else {
    await_change(thread, &team->barriers, seen);
  }
}

/* This thread's part of a loop of total iterations. */
INLINE Range share(const Thread *thread, i32 total) {
  const i64 all = total > 0 ? total : 0;
  const i64 size = thread->team->size;
  return (Range){(i32)(all * thread->id / size), (i32)(all * (thread->id + 1) / size)};
}

/* The memory at a line of 64 bytes: arguments of kernels. */
INLINE void *at(void *base, i64 line) { return (u8 *)base + 64 * line; }
INLINE const void *from(const void *base, i64 line) { return (const u8 *)base + 64 * line; }
`;

/** Reads the features of an x86-64 processor, as far as its operating system lets programs use them. */
export const PROCESSOR = `\
#if defined(LUTRA_EMULATE)
UNUSED static int cpu_avx2(void) { return 1; }
UNUSED static int cpu_avxvnni(void) { return 1; }
UNUSED static int cpu_avx512vnni(void) { return 1; }
#elif defined(__x86_64__)
typedef struct {
  u32 a, b, c, d;
} Cpuid;

static Cpuid cpuid(u32 leaf, u32 subleaf) {
  Cpuid r = {0, 0, 0, 0};
  __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);
  return r;
}

static int all_bits(u32 value, u32 wanted) { return (value & wanted) == wanted; }

/* Whether the operating system saves these parts of the registers: bits of XCR0. */
UNUSED static int cpu_saves(u32 state) {
  if (!(cpuid(1, 0).c >> 27 & 1)) return 0;
  u32 low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return all_bits(low, state);
}

UNUSED static int cpu_avx2(void) {
  const u32 avx_f16c = 1u << 28 | 1u << 29;
  return cpu_saves(0x6) && all_bits(cpuid(1, 0).c, avx_f16c) && (cpuid(7, 0).b >> 5 & 1);
}

UNUSED static int cpu_avxvnni(void) { return cpu_avx2() && (cpuid(7, 1).a >> 4 & 1); }

UNUSED static int cpu_avx512vnni(void) {
  const u32 f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
  return cpu_avx2() && cpu_saves(0xe6) && all_bits(cpuid(7, 0).b, f_dq_bw_vl) && (cpuid(7, 0).c >> 11 & 1);
}
#endif

UNUSED static int cpu_scalar(void) { return 1; }
`;

/** What a variant is to the entry points, whichever it is. */
export const VARIANT_TYPES = `\
typedef struct {
  const char *name;
  i32 buffers, scalars;
  void (*run)(Range range, u8 *scratch, void *const *buffers, const double *scalars);
} Kernel;

typedef struct {
  const char *name;
  int (*supported)(void);
  void (*main)(Thread *thread, const u8 *weights, u8 *arena, u8 *cache, const i32 *tokens, f32 *logits,
               i32 n, i32 pos, i32 all);
  const Kernel *kernels;
  i32 kernel_count;
  size_t scratch_bytes;
} Variant;
`;

/** The exported functions. They need VARIANTS, a table, and DESCRIPTION, WEIGHTS_BYTES, ARENA_BYTES, CACHE_BYTES. */
export const ENTRY_POINTS = `\
typedef struct Model {
  const Variant *variant;
  void *weights;
  size_t weights_bytes;
  u8 *arena;
  u8 *scratch;
  Team *team;
} Model;

/* Zeroed memory, at the start of a page; it costs nothing before it is written. */
static void *allocate(size_t bytes) {
  void *p = mmap(NULL, bytes > 0 ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return p == MAP_FAILED ? NULL : p;
}

static void release(void *p, size_t bytes) {
  if (p != NULL) munmap(p, bytes > 0 ? bytes : 1);
}

static void run_step(Thread *thread) {
  const Model *model = thread->team->model;
  const Step *s = &thread->team->step;
  model->variant->main(thread, s->weights, model->arena, s->cache, s->tokens, s->logits, s->n, s->pos, s->all);
  barrier(thread);
}

static void *worker(void *argument) {
  Thread *thread = argument;
  Team *team = thread->team;
  for (u32 seen = 0;; seen++) {
    await_change(thread, &team->steps, seen);
    if (team->quit) return NULL;
    run_step(thread);
  }
}

/* Ends the threads 1 .. count - 1. */
static void end_team(Team *team, i32 count) {
  team->quit = 1;
  advance(team, &team->steps);
  for (i32 id = 1; id < count; id++) pthread_join(team->threads[id].handle, NULL);
#if !defined(__linux__)
  pthread_cond_destroy(&team->changed);
  pthread_mutex_destroy(&team->mutex);
#endif
  release(team, sizeof *team);
}

/* Bytes of scratch memory of a thread: whole pages. */
static size_t scratch_stride(const Model *model) {
  return (model->variant->scratch_bytes + 4095) & ~(size_t)4095;
}

/* Returns 0, or an error number. */
static int start_team(Model *model, i32 size) {
  Team *team = allocate(sizeof *team);
  model->scratch = allocate(scratch_stride(model) * (size_t)size);
  if (team == NULL || model->scratch == NULL) {
    release(team, sizeof *team);
    release(model->scratch, scratch_stride(model) * (size_t)size);
    return ENOMEM;
  }
  team->size = size;
  team->model = model;
#if !defined(__linux__)
  pthread_mutex_init(&team->mutex, NULL);
  pthread_cond_init(&team->changed, NULL);
#endif
  /* Signals are the business of the program's own threads. */
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failed = 0;
  for (i32 id = 0; id < size && !failed; id++) {
    team->threads[id].team = team;
    team->threads[id].id = id;
    team->threads[id].scratch = model->scratch + scratch_stride(model) * (size_t)id;
    if (id > 0) failed = pthread_create(&team->threads[id].handle, NULL, worker, &team->threads[id]);
    if (failed) end_team(team, id);
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (failed) {
    release(model->scratch, scratch_stride(model) * (size_t)size);
    return failed;
  }
  model->team = team;
  return 0;
}

/* Maps the weights file; an empty path is no weights, to call single kernels. Returns 0 or explains. */
static int map_weights(Model *model, const char *path, char *error, size_t error_bytes) {
  if (path == NULL || *path == 0) return 0;
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (file < 0 || fstat(file, &info) != 0) {
    snprintf(error, error_bytes, "cannot open %s: %s", path, strerror(errno));
    if (file >= 0) close(file);
    return -1;
  }
  const i64 size = WEIGHTS_BYTES;
  if (info.st_size < size) {
    snprintf(error, error_bytes, "%s has %lld bytes instead of %lld", path, (long long)info.st_size,
             (long long)size);
    close(file);
    return -1;
  }
  model->weights_bytes = (size_t)info.st_size;
  if (model->weights_bytes > 0) {
    model->weights = mmap(NULL, model->weights_bytes, PROT_READ, MAP_PRIVATE, file, 0);
  }
  const int failure = errno;
  close(file);
  if (model->weights == MAP_FAILED) {
    model->weights = NULL;
    snprintf(error, error_bytes, "cannot map %s: %s", path, strerror(failure));
    return -1;
  }
  if (model->weights != NULL) madvise(model->weights, model->weights_bytes, MADV_WILLNEED);
  return 0;
}

/* What this library is, as JSON. */
EXPORT const char *lutra_describe(void) { return DESCRIPTION; }

/* Whether this processor can run a variant; -1 when the library does not have it. */
EXPORT i32 lutra_supported(const char *variant) {
  for (size_t i = 0; i < sizeof VARIANTS / sizeof *VARIANTS; i++) {
    if (strcmp(VARIANTS[i].name, variant) == 0) return VARIANTS[i].supported() != 0;
  }
  return -1;
}

/* Frees a model; no step may be running. */
EXPORT void lutra_close(Model *model) {
  if (model->team != NULL) {
    const size_t scratch = scratch_stride(model) * (size_t)model->team->size;
    end_team(model->team, model->team->size);
    release(model->scratch, scratch);
  }
  release(model->arena, ARENA_BYTES);
  if (model->weights != NULL) munmap(model->weights, model->weights_bytes);
  free(model);
}

/* Opens a model with a team of threads. On failure returns NULL and puts the reason into error. */
EXPORT Model *lutra_open(const char *weights, const char *variant, i32 threads, char *error, i32 error_bytes) {
  const size_t room = (size_t)error_bytes;
  const i32 supported = lutra_supported(variant);
  if (supported != 1) {
    snprintf(error, room, "%s %s", supported < 0 ? "this library has no variant" : "this processor cannot run",
             variant);
    return NULL;
  }
  if (threads < 1 || threads > MAX_THREADS) {
    snprintf(error, room, "threads must be 1 to %d, not %d", MAX_THREADS, threads);
    return NULL;
  }
  Model *model = calloc(1, sizeof *model);
  if (model == NULL) {
    snprintf(error, room, "out of memory");
    return NULL;
  }
  for (size_t i = 0; i < sizeof VARIANTS / sizeof *VARIANTS; i++) {
    if (strcmp(VARIANTS[i].name, variant) == 0) model->variant = &VARIANTS[i];
  }
  if (map_weights(model, weights, error, room) != 0) {
    lutra_close(model);
    return NULL;
  }
  model->arena = allocate(ARENA_BYTES);
  const int failed = model->arena == NULL ? ENOMEM : start_team(model, threads);
  if (failed) {
    snprintf(error, room, "cannot start %d threads with %lld bytes of working memory: %s", threads,
             (long long)ARENA_BYTES, strerror(failed));
    lutra_close(model);
    return NULL;
  }
  return model;
}

/* A KV cache, zeroed; NULL when there is not enough memory. */
EXPORT void *lutra_cache_new(void) { return allocate(CACHE_BYTES); }
EXPORT void lutra_cache_free(void *cache) { release(cache, CACHE_BYTES); }

/*
 * One forward step: n tokens from position pos on. all: 1 for the logits of every token, 0 for those of the
 * last one. Blocks until it is done; one step at a time for each model.
 */
EXPORT void lutra_step(Model *model, const i32 *tokens, i32 n, i32 pos, i32 all, void *cache, f32 *logits) {
  Team *team = model->team;
  team->step = (Step){model->weights, cache, tokens, logits, n, pos, all};
  if (team->size > 1) advance(team, &team->steps);
  run_step(&team->threads[0]);
}

/*
 * Runs iterations begin .. end of a kernel on the calling thread. Returns 0, or -1 where there is no such kernel
 * with as many arguments.
 */
EXPORT i32 lutra_call(Model *model, const char *kernel, void *const *buffers, i32 buffer_count,
                      const double *scalars, i32 scalar_count, i32 begin, i32 end) {
  const Variant *variant = model->variant;
  for (i32 i = 0; i < variant->kernel_count; i++) {
    const Kernel *k = &variant->kernels[i];
    if (strcmp(k->name, kernel) != 0) continue;
    if (k->buffers != buffer_count || k->scalars != scalar_count) return -1;
    k->run((Range){begin, end}, model->team->threads[0].scratch, buffers, scalars);
    return 0;
  }
  return -1;
}
`;
