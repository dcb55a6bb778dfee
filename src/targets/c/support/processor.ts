/** Reads the features of a processor, as far as its operating system lets programs use them. */
const X64 = `\
#if defined(LUTRA_EMULATE)
UNUSED static int cpu_avx2(void) { return 1; }
UNUSED static int cpu_avxvnni(void) { return 1; }
UNUSED static int cpu_avx512vnni(void) { return 1; }
UNUSED static int cpu_avx512vbmi(void) { return 1; }
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

UNUSED static int cpu_avx512vbmi(void) { return cpu_avx512vnni() && (cpuid(7, 0).c >> 1 & 1); }
#endif

UNUSED static int cpu_scalar(void) { return 1; }
`;

const ARM64 = `\
#if VECTORS
#if defined(__linux__)
#include <sys/auxv.h>

/* Bits of the kernel's answer, by their fixed places: older headers lack some of the names. */
static unsigned long cpu_hwcap(int word, int bit) {
  return getauxval(word == 1 ? AT_HWCAP : AT_HWCAP2) >> bit & 1;
}

UNUSED static int cpu_neon(void) { return cpu_hwcap(1, 1) != 0; }
UNUSED static int cpu_dotprod(void) { return cpu_neon() && cpu_hwcap(1, 20); }
UNUSED static int cpu_i8mm(void) { return cpu_dotprod() && cpu_hwcap(2, 13); }
#elif defined(__APPLE__)
#include <sys/sysctl.h>

static int cpu_has(const char *feature) {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(feature, &value, &size, NULL, 0) == 0 && value != 0;
}

UNUSED static int cpu_neon(void) { return 1; }
UNUSED static int cpu_dotprod(void) { return cpu_has("hw.optional.arm.FEAT_DotProd"); }
UNUSED static int cpu_i8mm(void) { return cpu_dotprod() && cpu_has("hw.optional.arm.FEAT_I8MM"); }
#else
UNUSED static int cpu_neon(void) { return 1; }
UNUSED static int cpu_dotprod(void) { return 0; }
UNUSED static int cpu_i8mm(void) { return 0; }
#endif
#endif

UNUSED static int cpu_scalar(void) { return 1; }
`;

export const PROCESSOR = { x64: X64, arm64: ARM64 } as const;
