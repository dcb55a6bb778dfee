/*
 * Portable x86 vector intrinsics, to test the AVX-512 and AVX-VNNI variants of generated C on processors without
 * them: SIMDe, and in plain C what its version in Debian 12 lacks.
 */
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <string.h>

#define _mm_dpbusd_avx_epi32 simde_mm_dpbusd_epi32
#define _mm256_dpbusd_avx_epi32 simde_mm256_dpbusd_epi32
#ifndef _MM_FROUND_NO_EXC
#define _MM_FROUND_NO_EXC SIMDE_MM_FROUND_NO_EXC
#endif

#undef _mm512_cmpeq_epi8_mask
#undef _mm512_cmpeq_epu8_mask
#undef _mm512_cmpeq_epi16_mask
#undef _mm512_cmpeq_epu16_mask
#undef _mm512_cmpeq_epi32_mask
#undef _mm512_cmpeq_epu32_mask
#undef _mm512_cmpneq_epi8_mask
#undef _mm512_cmpneq_epu8_mask
#undef _mm512_cmpneq_epi16_mask
#undef _mm512_cmpneq_epu16_mask
#undef _mm512_cmpneq_epi32_mask
#undef _mm512_cmpneq_epu32_mask
#undef _mm512_cmplt_epi8_mask
#undef _mm512_cmplt_epu8_mask
#undef _mm512_cmplt_epi16_mask
#undef _mm512_cmplt_epu16_mask
#undef _mm512_cmplt_epi32_mask
#undef _mm512_cmplt_epu32_mask
#undef _mm512_cmple_epi8_mask
#undef _mm512_cmple_epu8_mask
#undef _mm512_cmple_epi16_mask
#undef _mm512_cmple_epu16_mask
#undef _mm512_cmple_epi32_mask
#undef _mm512_cmple_epu32_mask
#undef _mm512_cvtepi8_epi16
#undef _mm512_cvtepu8_epi16
#undef _mm512_cvtepi8_epi32
#undef _mm512_cvtepu8_epi32
#undef _mm512_cvtepi16_epi32
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepi32_epi16
#undef _mm512_cvtsepi32_epi16
#undef _mm512_cvtusepi32_epi16
#undef _mm512_cvtepi32_epi8
#undef _mm512_cvtsepi32_epi8
#undef _mm512_cvtusepi32_epi8
#undef _mm512_cvtepi16_epi8
#undef _mm512_cvtsepi16_epi8
#undef _mm512_cvtusepi16_epi8
#undef _mm512_cvttps_epi32
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtph_ps
#undef _mm512_cvtps_ph
#undef _mm512_madd_epi16
#undef _mm_round_ps
#undef _mm256_round_ps
#undef _mm512_roundscale_ps

#define EMULATED __attribute__((unused)) static inline

/* Lane i of the result is an expression of x[i]; the vectors go through memory. */
#define EACH(name, Result, result, Operand, operand, lanes, expression) \
  EMULATED Result name(Operand a) {                                     \
    operand x[lanes];                                                   \
    result r[lanes];                                                    \
    Result out;                                                         \
    memcpy(x, &a, sizeof x);                                            \
    for (int i = 0; i < lanes; i++) r[i] = (result)(expression);        \
    memcpy(&out, r, sizeof out);                                        \
    return out;                                                         \
  }
#define CLAMP(x, low, high) ((x) < (low) ? (low) : (x) > (high) ? (high) : (x))
#define LIMIT(x, high) ((x) > (high) ? (high) : (x))

EACH(_mm512_cvtepi8_epi16, __m512i, int16_t, __m256i, int8_t, 32, x[i])
EACH(_mm512_cvtepu8_epi16, __m512i, int16_t, __m256i, uint8_t, 32, x[i])
EACH(_mm512_cvtepi8_epi32, __m512i, int32_t, __m128i, int8_t, 16, x[i])
EACH(_mm512_cvtepu8_epi32, __m512i, int32_t, __m128i, uint8_t, 16, x[i])
EACH(_mm512_cvtepi16_epi32, __m512i, int32_t, __m256i, int16_t, 16, x[i])
EACH(_mm512_cvtepu16_epi32, __m512i, int32_t, __m256i, uint16_t, 16, x[i])
EACH(_mm512_cvtepi32_epi16, __m256i, int16_t, __m512i, int32_t, 16, x[i])
EACH(_mm512_cvtsepi32_epi16, __m256i, int16_t, __m512i, int32_t, 16, CLAMP(x[i], INT16_MIN, INT16_MAX))
EACH(_mm512_cvtusepi32_epi16, __m256i, uint16_t, __m512i, uint32_t, 16, LIMIT(x[i], UINT16_MAX))
EACH(_mm512_cvtepi32_epi8, __m128i, int8_t, __m512i, int32_t, 16, x[i])
EACH(_mm512_cvtsepi32_epi8, __m128i, int8_t, __m512i, int32_t, 16, CLAMP(x[i], INT8_MIN, INT8_MAX))
EACH(_mm512_cvtusepi32_epi8, __m128i, uint8_t, __m512i, uint32_t, 16, LIMIT(x[i], UINT8_MAX))
EACH(_mm512_cvtepi16_epi8, __m256i, int8_t, __m512i, int16_t, 32, x[i])
EACH(_mm512_cvtsepi16_epi8, __m256i, int8_t, __m512i, int16_t, 32, CLAMP(x[i], INT8_MIN, INT8_MAX))
EACH(_mm512_cvtusepi16_epi8, __m256i, uint8_t, __m512i, uint16_t, 32, LIMIT(x[i], UINT8_MAX))
EACH(_mm512_cvttps_epi32, __m512i, int32_t, __m512, float, 16, x[i])
EACH(_mm512_cvtepi32_ps, __m512, float, __m512i, int32_t, 16, x[i])

/* SIMDe's lose the sign of zero. */
EACH(round_4, __m128, float, __m128, float, 4, rintf(x[i]))
EACH(round_8, __m256, float, __m256, float, 8, rintf(x[i]))
EACH(round_16, __m512, float, __m512, float, 16, rintf(x[i]))
#define _mm_round_ps(a, rounding) round_4(a)
#define _mm256_round_ps(a, rounding) round_8(a)
#define _mm512_roundscale_ps(a, rounding) round_16(a)

#define COMPARE(name, Mask, lane, lanes, operator)                        \
  EMULATED Mask name(__m512i a, __m512i b) {                              \
    lane x[lanes], y[lanes];                                              \
    Mask r = 0;                                                           \
    memcpy(x, &a, sizeof x);                                              \
    memcpy(y, &b, sizeof y);                                              \
    for (int i = 0; i < lanes; i++) r |= (Mask)(x[i] operator y[i]) << i; \
    return r;                                                             \
  }
#define COMPARES(op, operator)                                       \
  COMPARE(_mm512_cmp##op##_epi8_mask, uint64_t, int8_t, 64, operator)   \
  COMPARE(_mm512_cmp##op##_epu8_mask, uint64_t, uint8_t, 64, operator)  \
  COMPARE(_mm512_cmp##op##_epi16_mask, uint32_t, int16_t, 32, operator) \
  COMPARE(_mm512_cmp##op##_epu16_mask, uint32_t, uint16_t, 32, operator) \
  COMPARE(_mm512_cmp##op##_epi32_mask, uint16_t, int32_t, 16, operator) \
  COMPARE(_mm512_cmp##op##_epu32_mask, uint16_t, uint32_t, 16, operator)

COMPARES(eq, ==)
COMPARES(neq, !=)
COMPARES(lt, <)
COMPARES(le, <=)

EMULATED __m512 _mm512_cvtph_ps(__m256i a) {
  __m128i halves[2];
  memcpy(halves, &a, sizeof halves);
  const __m256 r[2] = {_mm256_cvtph_ps(halves[0]), _mm256_cvtph_ps(halves[1])};
  __m512 out;
  memcpy(&out, r, sizeof out);
  return out;
}

EMULATED __m256i _mm512_cvtps_ph(__m512 a, int rounding) {
  (void)rounding;
  __m256 halves[2];
  memcpy(halves, &a, sizeof halves);
  const __m128i r[2] = {_mm256_cvtps_ph(halves[0], 0), _mm256_cvtps_ph(halves[1], 0)};
  __m256i out;
  memcpy(&out, r, sizeof out);
  return out;
}

EMULATED __m512i _mm512_madd_epi16(__m512i a, __m512i b) {
  __m256i x[2], y[2];
  memcpy(x, &a, sizeof x);
  memcpy(y, &b, sizeof y);
  const __m256i r[2] = {_mm256_madd_epi16(x[0], y[0]), _mm256_madd_epi16(x[1], y[1])};
  __m512i out;
  memcpy(&out, r, sizeof out);
  return out;
}
