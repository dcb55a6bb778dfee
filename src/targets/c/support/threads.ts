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
  i64 *time;   /* where the next one is noted while a profile is taken */
  i64 *times_end;
  pthread_t handle;
  u64 calls; /* of kernels so far, the same in every thread that has come as far */
  /* What was taken of this thread's share: the call it is of, and in 8 bits how many parts. In a line of its own. */
  _Alignas(64) _Atomic u64 taken;
} Thread;

typedef struct {
  const u8 *weights;
  u8 *cache;
  const i32 *tokens, *sequences, *outputs;
  f32 *logits;
  i32 n, count;
} Step;

struct Team {
  i32 size;
  const struct Model *model;
  Step step;
  int quit;
  int stopped; /* nothing is computed any more: the same for all threads between two barriers */
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
  _Alignas(64) _Atomic int stop;     /* asked for by another thread */
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

/* Notes the time, where a profile is wanted. */
INLINE void note_time(Thread *thread) {
  if (thread->time != thread->times_end) *thread->time++ = nanoseconds();
}

/* Waits until every thread of the team is here. */
static void gather(Thread *thread) {
  Team *team = thread->team;
  if (team->size == 1) {
    team->stopped = atomic_load_explicit(&team->stop, memory_order_relaxed);
    return;
  }
  const u32 seen = atomic_load_explicit(&team->barriers, memory_order_relaxed);
  if (atomic_fetch_add(&team->arrived, 1) + 1 == (u32)team->size) {
    atomic_store(&team->arrived, 0);
    team->stopped = atomic_load_explicit(&team->stop, memory_order_relaxed);
    advance(team, &team->barriers);
  } else {
    await_change(thread, &team->barriers, seen);
  }
}

/* Between the kernels of a step. */
UNUSED static void barrier(Thread *thread) {
  note_time(thread);
  gather(thread);
  note_time(thread);
}

/* This thread's part of a loop of total iterations. */
INLINE Range share(const Thread *thread, i32 total) {
  const i64 all = total > 0 && !thread->team->stopped ? total : 0;
  const i64 size = thread->team->size;
  return (Range){(i32)(all * thread->id / size), (i32)(all * (thread->id + 1) / size)};
}

/*
 * The loop of a kernel in parts. Each thread has a share of it, whose parts it takes one after the other; when none is
 * left it takes those that other threads have not come to, so that one that lost its core holds up nobody for more than
 * a part. The share is the same in every step, and so, mostly, is what a core reads.
 */
#define PARTS 8

typedef struct {
  Range range;
  Thread *thread;
  u64 call;
  i32 total;
  i32 distance; /* from this thread to the one whose parts are taken */
} Parts;

INLINE Parts split(Thread *thread, i32 total) { return (Parts){{0, 0}, thread, ++thread->calls, total, 0}; }

/* Takes a part into parts->range; 0 when all are taken. */
UNUSED static int take(Parts *parts) {
  Team *team = parts->thread->team;
  if (team->size == 1) {
    parts->range = share(parts->thread, parts->total);
    return parts->distance++ == 0;
  }
  for (; parts->distance < team->size; parts->distance++) {
    Thread *owner = &team->threads[(parts->thread->id + parts->distance) % team->size];
    const Range all = share(owner, parts->total);
    const i32 size = all.end - all.begin;
    const i32 count = size < PARTS ? size : PARTS;
    u64 taken = atomic_load(&owner->taken);
    for (;;) {
      /* The owner may not have come to this call yet, or be in a later one, when all of this is taken. */
      const u64 call = taken >> 8;
      const i32 part = call < parts->call ? 0 : (i32)(taken & 255);
      if (call > parts->call || part >= count) break;
      if (!atomic_compare_exchange_weak(&owner->taken, &taken, parts->call << 8 | (u64)(part + 1))) continue;
      parts->range.begin = all.begin + (i32)((i64)size * part / count);
      parts->range.end = all.begin + (i32)((i64)size * (part + 1) / count);
      return 1;
    }
  }
  return 0;
}

/* The memory at a line of 64 bytes: arguments of kernels. */
INLINE void *at(void *base, i64 line) { return (u8 *)base + 64 * line; }
INLINE const void *from(const void *base, i64 line) { return (const u8 *)base + 64 * line; }
`;
