/*
 * The files of this folder hold the C that is the same in every artifact: what no kernel of the loop IR can
 * express. Everything is static, so that two libraries in one process know nothing of each other; only
 * `lutra_*` is exported.
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

#if !defined(EXPORT)
#define EXPORT __attribute__((visibility("default")))
#endif
#define UNUSED __attribute__((unused))
#define INLINE UNUSED static inline __attribute__((always_inline))
#define KERNEL static __attribute__((noinline))
/*
 * The forward step is thousands of lines of calls, which take no time to run but an optimizer three quarters of its
 * time, and GCC without any optimization 2 KiB of stack a layer.
 */
#if defined(__clang__)
#define CALLS __attribute__((noinline, optnone))
#elif defined(__GNUC__)
#define CALLS __attribute__((noinline, optimize("Og")))
#else
#define CALLS
#endif

/*
 * The file may be compiled in parts at the same time, to be linked together: LUTRA_PART 1, 2, ... has one variant
 * each, LUTRA_PART 0 everything else. Without LUTRA_PART it is all in one.
 */
#if defined(LUTRA_PART)
#define PART(n) (LUTRA_PART == (n))
#define SHARED
#else
#define PART(n) 1
#define SHARED static
#endif

/* Iterations begin .. end of a kernel's thread loop. */
typedef struct {
  i32 begin, end;
} Range;
`;

const X64 = `\
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

/** Vector code is only seen where it can be compiled: the same file gives scalar code on other processors. */
const ARM64 = `\
/*
 * Each variant is compiled for its instruction set function by function, so that the file needs no -march and
 * the library loads on any processor.
 */
#if defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#define VECTORS 1
#else
#define VECTORS 0
#endif

#define NEON
#if defined(__clang__)
#define DOTPROD __attribute__((target("dotprod")))
#define I8MM __attribute__((target("dotprod,i8mm")))
#else
#define DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#define I8MM __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
#endif

/* Before Clang 16 these intrinsics are only declared when the whole file is compiled with them. */
#if defined(__clang__) && __clang_major__ < 16
#define SDOT(a, b, c) (int32x4_t)__builtin_neon_vdotq_v((int8x16_t)(a), b, c, 34)
#define USDOT(a, b, c) (int32x4_t)__builtin_neon_vusdotq_v((int8x16_t)(a), (int8x16_t)(b), c, 34)
#else
#define SDOT(a, b, c) vdotq_s32(a, b, c)
#define USDOT(a, b, c) vusdotq_s32(a, b, c)
#endif
`;

/** Which instruction sets a compilation has, and their headers. LUTRA_EMULATE is for tests on lesser processors. */
export const INSTRUCTION_SETS = { x64: X64, arm64: ARM64 } as const;

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
