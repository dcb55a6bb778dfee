/** What a variant is to the entry points, whichever it is. */
export const VARIANT_TYPES = `\
typedef struct {
  const char *name;
  i32 buffers, scalars;
  void (*run)(Range range, u8 *scratch, void *const *buffers, const double *scalars);
} Kernel;

typedef void Main(Thread *thread, const u8 *weights, u8 *arena, u8 *cache, const i32 *tokens, const i32 *sequences,
                  const i32 *outputs, f32 *logits, i32 n, i32 count);

typedef struct {
  const char *name;
  int (*supported)(void);
  Main *main;
  const Kernel *kernels;
  i32 kernel_count;
  size_t scratch_bytes;
} Variant;
`;

/** The exported functions. They need the tables VARIANTS, STREAMED, LOOKUPS, and DESCRIPTION, WEIGHTS_BYTES, ARENA_BYTES, CACHE_BYTES. */
export const ENTRY_POINTS = `\
typedef struct Model {
  const Variant *variant;
  void *weights;
  size_t weights_bytes;
  int file;      /* of the weights, where rows of tables are read from it; or -1 */
  u8 *rows_read; /* a bit for each token whose rows are in memory */
  i64 row_count;
  u8 *arena;
  u8 *scratch;
  Team *team;
  u8 *caches;      /* the pool: reserved addresses, of which a cache in use has memory */
  size_t slots;    /* caches that the pool has addresses for */
  u8 *slot_in_use; /* one byte for each */
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
  note_time(thread);
  model->variant->main(thread, s->weights, model->arena, s->cache, s->tokens, s->sequences, s->outputs, s->logits,
                       s->n, s->count);
  gather(thread);
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

#if defined(__linux__)
/*
 * The address of every 4 KiB page has to be looked up, in a virtual machine through two tables. Few file systems
 * have huge pages, so where LUTRA_HUGE_PAGES=1 asks for them, what steps stream is copied from the file, which is in
 * no other memory of this process then. Tables of which few rows are read stay mapped.
 */
#define HUGE_PAGE ((i64)2 << 20)
#define COPY_BYTES ((i64)8 << 20)

typedef struct {
  u8 *to;
  int file;
  i64 end;
  _Atomic i64 next;
  _Atomic int failed;
} Copy;

/* Copies pieces of the file until none is left. */
static void *copy_pieces(void *argument) {
  Copy *copy = argument;
  for (;;) {
    i64 at = atomic_fetch_add(&copy->next, COPY_BYTES);
    if (at >= copy->end) return NULL;
    const i64 end = at + COPY_BYTES < copy->end ? at + COPY_BYTES : copy->end;
    while (at < end) {
      const ssize_t got = pread(copy->file, copy->to + at, (size_t)(end - at), (off_t)at);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        atomic_store(&copy->failed, 1);
        return NULL;
      }
      at += got;
    }
  }
}

/* Puts memory of huge pages in place of the mapping of bytes from .. end; 0 when that failed. */
static int copy_range(u8 *weights, int file, i64 from, i64 end, i32 threads) {
  const size_t bytes = (size_t)(end - from);
  if (mmap(weights + from, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
      MAP_FAILED) {
    return 0;
  }
  madvise(weights + from, bytes, MADV_HUGEPAGE);
  Copy copy = {.to = weights, .file = file, .end = end};
  atomic_store(&copy.next, from);
  pthread_t helpers[8];
  i32 count = 0;
  while (count < threads - 1 && count < 8 && pthread_create(&helpers[count], NULL, copy_pieces, &copy) == 0) count++;
  copy_pieces(&copy);
  for (i32 i = 0; i < count; i++) pthread_join(helpers[i], NULL);
  return !atomic_load(&copy.failed) && mprotect(weights + from, bytes, PROT_READ) == 0;
}

/* Whether huge pages are asked for, and this machine has them and room for that much. */
static int wants_huge_pages(i64 bytes) {
  const char *asked = getenv("LUTRA_HUGE_PAGES");
  if (asked == NULL || strcmp(asked, "1") != 0) return 0;
  if (bytes > (i64)sysconf(_SC_PHYS_PAGES) / 2 * (i64)sysconf(_SC_PAGESIZE)) return 0;
  const int file = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  char text[64] = {0};
  const ssize_t got = read(file, text, sizeof text - 1);
  close(file);
  return got > 0 && strstr(text, "[never]") == NULL;
}

/* Moves what steps stream into huge pages. Where that fails, the weights stay mapped as they are. */
static void use_huge_pages(Model *model, int file, i32 threads) {
  i64 streamed = 0;
  for (int i = 0; STREAMED[i][1] > 0; i++) streamed += STREAMED[i][1];
  if (streamed < HUGE_PAGE || !wants_huge_pages(streamed)) return;
  const size_t bytes = (model->weights_bytes + 4095) & ~(size_t)4095;
  u8 *room = mmap(NULL, bytes + (size_t)HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return;
  u8 *weights = room + (-(uintptr_t)room & (uintptr_t)(HUGE_PAGE - 1));
  int done = mmap(weights, model->weights_bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, file, 0) != MAP_FAILED;
  for (int i = 0; done && STREAMED[i][1] > 0; i++) {
    const i64 from = (STREAMED[i][0] + HUGE_PAGE - 1) & -HUGE_PAGE;
    const i64 end = (STREAMED[i][0] + STREAMED[i][1]) & -HUGE_PAGE;
    if (from < end) done = copy_range(weights, file, from, end, threads);
  }
  if (!done) {
    munmap(room, bytes + (size_t)HUGE_PAGE);
    return;
  }
  const size_t before = (size_t)(weights - room);
  if (before > 0) munmap(room, before);
  if (before < (size_t)HUGE_PAGE) munmap(weights + bytes, (size_t)HUGE_PAGE - before);
  munmap(model->weights, model->weights_bytes);
  model->weights = weights;
}
#endif

/*
 * Of some tables, as embeddings, steps read the rows of their tokens only. A mapped file would bring up to 2 MiB of
 * pages for each of them, so the rows are read into memory of their own. When there are many, all are forgotten.
 */
#define ROWS_BYTES ((i64)2 << 20)
#define TABLE_PAGE ((i64)1 << 16) /* a multiple of what any system has as pages */

/* The part of a table in whole pages; what is at its ends stays mapped. */
static i64 table_from(const i64 *table) { return (table[0] + TABLE_PAGE - 1) & -TABLE_PAGE; }
static i64 table_end(const i64 *table) { return (table[0] + table[1]) & -TABLE_PAGE; }

/* Puts empty memory, or the file again, in place of all tables. Returns 0 when that failed. */
static int map_tables(Model *model, int empty) {
  const int flags = MAP_PRIVATE | MAP_FIXED | (empty ? MAP_ANONYMOUS | MAP_NORESERVE : 0);
  int done = 1;
  for (const i64 *t = LOOKUPS[0]; t[1] > 0; t += 3) {
    const i64 from = table_from(t), end = table_end(t);
    if (from >= end) continue;
    u8 *place = (u8 *)model->weights + from;
    done &= mmap(place, (size_t)(end - from), empty ? PROT_READ | PROT_WRITE : PROT_READ, flags,
                 empty ? -1 : model->file, empty ? 0 : (off_t)from) != MAP_FAILED;
  }
  return done;
}

/* Reads what is missing of a row into its place; 0 when that failed. */
static int read_row(const Model *model, const i64 *table, i64 row) {
  i64 at = table[0] + row * table[2], end = at + table[2];
  if (at < table_from(table)) at = table_from(table);
  if (end > table_end(table)) end = table_end(table);
  while (at < end) {
    const ssize_t got = pread(model->file, (u8 *)model->weights + at, (size_t)(end - at), (off_t)at);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return 0;
    at += got;
  }
  return 1;
}

/* Makes the rows of tokens be in memory. */
static void read_rows(Model *model, const i32 *tokens, i32 n) {
  if (model->rows_read == NULL) return;
  const i64 rows = LOOKUPS[0][1] / LOOKUPS[0][2];
  if (model->row_count > 0 && (model->row_count + n) * LOOKUPS[0][2] > ROWS_BYTES) {
    map_tables(model, 1);
    memset(model->rows_read, 0, (size_t)rows / 8 + 1);
    model->row_count = 0;
  }
  for (i32 i = 0; i < n; i++) {
    const i64 row = tokens[i];
    if (row < 0 || row >= rows || (model->rows_read[row / 8] >> (row % 8) & 1)) continue;
    int done = 1;
    for (const i64 *t = LOOKUPS[0]; t[1] > 0; t += 3) done &= read_row(model, t, row);
    if (!done) {
      /* Whatever is wrong with the file, mapped it is as it is without all this. */
      map_tables(model, 0);
      free(model->rows_read);
      model->rows_read = NULL;
      return;
    }
    model->rows_read[row / 8] |= (u8)(1 << (row % 8));
    model->row_count++;
  }
}

/* Maps the weights file; an empty path is no weights, to call single kernels. Returns 0 or explains. */
static int map_weights(Model *model, const char *path, i32 threads, char *error, size_t error_bytes) {
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
  if (model->weights == MAP_FAILED) {
    model->weights = NULL;
    snprintf(error, error_bytes, "cannot map %s: %s", path, strerror(errno));
    close(file);
    return -1;
  }
  if (model->weights != NULL) madvise(model->weights, model->weights_bytes, MADV_WILLNEED);
#if defined(__linux__)
  if (model->weights != NULL) use_huge_pages(model, file, threads);
#else
  (void)threads;
#endif
  if (model->weights != NULL && LOOKUPS[0][1] > 0) {
    model->file = file;
    model->rows_read = calloc((size_t)(LOOKUPS[0][1] / LOOKUPS[0][2] / 8 + 1), 1);
    if (model->rows_read != NULL && map_tables(model, 1)) return 0;
    snprintf(error, error_bytes, "cannot map %s: %s", path, strerror(errno));
    return -1;
  }
  close(file);
  return 0;
}

/* Bytes from one cache of the pool to the next: whole pages. */
#define CACHE_STRIDE ((CACHE_BYTES + 16383) / 16384 * 16384 + (CACHE_BYTES == 0) * 16384)
/* Lines are counted in 31 bits, which reach 128 GiB; half of it is plenty. */
#define POOL_BYTES ((size_t)1 << 36)

/* Reserves addresses for as many caches as the system lets, at least one. Returns 0, or an error number. */
static int reserve_caches(Model *model) {
  size_t slots = POOL_BYTES / CACHE_STRIDE > 0 ? POOL_BYTES / CACHE_STRIDE : 1;
  if (slots > 4096) slots = 4096;
  for (; slots > 0; slots /= 2) {
    void *p = mmap(NULL, slots * CACHE_STRIDE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) continue;
    model->caches = p;
    model->slots = slots;
    model->slot_in_use = calloc(slots, 1);
    return model->slot_in_use == NULL ? ENOMEM : 0;
  }
  return ENOMEM;
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
  release(model->caches, model->slots * CACHE_STRIDE);
  free(model->slot_in_use);
  if (model->weights != NULL) munmap(model->weights, model->weights_bytes);
  if (model->file >= 0) close(model->file);
  free(model->rows_read);
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
  model->file = -1;
  for (size_t i = 0; i < sizeof VARIANTS / sizeof *VARIANTS; i++) {
    if (strcmp(VARIANTS[i].name, variant) == 0) model->variant = &VARIANTS[i];
  }
  if (map_weights(model, weights, threads, error, room) != 0) {
    lutra_close(model);
    return NULL;
  }
  model->arena = allocate(ARENA_BYTES);
  int failed = model->arena == NULL ? ENOMEM : reserve_caches(model);
  if (!failed) failed = start_team(model, threads);
  if (failed) {
    snprintf(error, room, "cannot start %d threads with %lld bytes of working memory: %s", threads,
             (long long)ARENA_BYTES, strerror(failed));
    lutra_close(model);
    return NULL;
  }
  return model;
}

/*
 * Makes a KV cache, zeroed: a line of 64 bytes in the pool, which is its name; -1 when there is not enough memory.
 * It takes memory as positions are written.
 */
EXPORT i32 lutra_cache_new(Model *model) {
  for (size_t slot = 0; slot < model->slots; slot++) {
    if (model->slot_in_use[slot]) continue;
    if (mprotect(model->caches + slot * CACHE_STRIDE, CACHE_STRIDE, PROT_READ | PROT_WRITE) != 0) return -1;
    model->slot_in_use[slot] = 1;
    return (i32)(slot * (CACHE_STRIDE / 64));
  }
  return -1;
}

/* Gives a cache back; no step may be using it. */
EXPORT void lutra_cache_free(Model *model, i32 cache) {
  const size_t slot = (size_t)cache / (CACHE_STRIDE / 64);
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  mmap(model->caches + slot * CACHE_STRIDE, CACHE_STRIDE, PROT_NONE, flags, -1, 0);
  model->slot_in_use[slot] = 0;
}

/*
 * One forward step of count sequences, whose n tokens follow one another. sequences has four words for each: its
 * first token, the one after its last, the position of the first, its cache. outputs[i] is the number of tokens
 * before token i whose logits are wanted, i = 0 .. n; logits has a row for each of them. Blocks until it is done;
 * one step at a time for each model.
 */
EXPORT void lutra_step(Model *model, const i32 *tokens, i32 n, const i32 *sequences, i32 count, const i32 *outputs,
                       f32 *logits) {
  Team *team = model->team;
  read_rows(model, tokens, n);
  team->step = (Step){model->weights, model->caches, tokens, sequences, outputs, logits, n, count};
  if (team->size > 1) advance(team, &team->steps);
  run_step(&team->threads[0]);
}

/* The step that runs and all later ones end without computing the rest: for a model that is closed next. */
EXPORT void lutra_stop(Model *model) { atomic_store(&model->team->stop, 1); }

/*
 * From the next step on each thread notes when it begins, when it comes to a barrier and when it leaves it, in
 * nanoseconds of the monotonic clock: thread t from times[t * room] on, at most room of them. NULL ends that. No
 * step may be running.
 */
EXPORT void lutra_times(Model *model, i64 *times, i32 room) {
  for (i32 t = 0; t < model->team->size; t++) {
    Thread *thread = &model->team->threads[t];
    thread->time = times == NULL ? NULL : times + (size_t)t * (size_t)room;
    thread->times_end = times == NULL ? NULL : thread->time + room;
  }
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
