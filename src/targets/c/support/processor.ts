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
