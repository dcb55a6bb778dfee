/*
 * Uses every function of lutra.h, with good and bad arguments. Prints the line of the first check that fails and
 * ends with 1. Prints the default number of threads, without weights nothing else.
 *
 *   standalone [WEIGHTS]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lutra.h"

#define CHECK(condition)                                       \
  do {                                                         \
    if (!(condition)) {                                        \
      printf("line %d: not %s\n", __LINE__, #condition);       \
      exit(1);                                                 \
    }                                                          \
  } while (0)

static int same_logits(const lutra_session *a, const float *expected) {
  return memcmp(lutra_session_logits(a), expected, (size_t)lutra_get_info()->vocabulary * sizeof(float)) == 0;
}

static void loading(const char *weights) {
  lutra_model *model = (lutra_model *)1;
  lutra_options options = {0};
  CHECK(lutra_load(weights, NULL, NULL) == LUTRA_ERROR_ARGUMENT);
  CHECK(lutra_load(NULL, NULL, &model) == LUTRA_ERROR_ARGUMENT && model == NULL);
  CHECK(lutra_load("", NULL, &model) == LUTRA_ERROR_FILE);
  CHECK(lutra_load("no such file", NULL, &model) == LUTRA_ERROR_FILE);
  CHECK(lutra_load("/dev/null", NULL, &model) == LUTRA_ERROR_FILE);
  options.threads = -1;
  CHECK(lutra_load(weights, &options, &model) == LUTRA_ERROR_ARGUMENT);
  options.threads = 1000;
  CHECK(lutra_load(weights, &options, &model) == LUTRA_ERROR_ARGUMENT);
  options.threads = 3;
  options.variant = "no such variant";
  CHECK(lutra_load(weights, &options, &model) == LUTRA_ERROR_PROCESSOR);
  options.variant = "scalar";
  CHECK(lutra_load(weights, &options, &model) == LUTRA_OK);
  CHECK(strcmp(lutra_variant(model), "scalar") == 0 && lutra_threads(model) == 3);
  lutra_free(model);
  lutra_free(NULL);
}

static void sessions(lutra_model *model) {
  const lutra_info *info = lutra_get_info();
  lutra_session *a, *b;
  CHECK(lutra_session_new(model, NULL) == LUTRA_ERROR_ARGUMENT);
  CHECK(lutra_session_new(NULL, &a) == LUTRA_ERROR_ARGUMENT && a == NULL);
  CHECK(lutra_session_new(model, &a) == LUTRA_OK && lutra_session_new(model, &b) == LUTRA_OK);
  CHECK(lutra_session_logits(a) == NULL && lutra_session_position(a) == 0);

  const int32_t count = info->context - 3;
  int32_t *tokens = malloc(((size_t)info->context + 1) * sizeof *tokens);
  for (int32_t i = 0; i <= info->context; i++) tokens[i] = (i * 31 + 7) % info->vocabulary;
  const int32_t bad[2] = {1, info->vocabulary}, negative = -1;
  CHECK(lutra_session_step(NULL, tokens, 1) == LUTRA_ERROR_ARGUMENT);
  CHECK(lutra_session_step(a, NULL, 1) == LUTRA_ERROR_ARGUMENT);
  CHECK(lutra_session_step(a, tokens, 0) == LUTRA_ERROR_ARGUMENT);
  CHECK(lutra_session_step(a, bad, 2) == LUTRA_ERROR_ARGUMENT);
  CHECK(lutra_session_step(a, &negative, 1) == LUTRA_ERROR_ARGUMENT);
  CHECK(lutra_session_step(a, tokens, info->context + 1) == LUTRA_ERROR_CONTEXT);
  CHECK(lutra_session_logits(a) == NULL && lutra_session_position(a) == 0);

  /* Many tokens at once and few at a time are the same, in two sessions that take turns. */
  const size_t bytes = (size_t)info->vocabulary * sizeof(float);
  float *expected = malloc(bytes);
  CHECK(lutra_session_step(a, tokens, count) == LUTRA_OK && lutra_session_position(a) == count);
  memcpy(expected, lutra_session_logits(a), bytes);
  for (int32_t at = 0; at < count; at += 7) {
    const int32_t n = count - at < 7 ? count - at : 7;
    CHECK(lutra_session_step(b, tokens + at, n) == LUTRA_OK);
    if (at == 14) CHECK(lutra_session_rewind(a, 3) == LUTRA_OK && lutra_session_step(a, tokens + 3, 2) == LUTRA_OK);
  }
  CHECK(same_logits(b, expected));

  CHECK(lutra_session_rewind(b, count + 1) == LUTRA_ERROR_ARGUMENT);
  CHECK(lutra_session_rewind(b, -1) == LUTRA_ERROR_ARGUMENT);
  CHECK(lutra_session_rewind(b, count - 5) == LUTRA_OK);
  CHECK(lutra_session_logits(b) == NULL && lutra_session_position(b) == count - 5);
  CHECK(lutra_session_step(b, tokens + count - 5, 5) == LUTRA_OK);
  CHECK(same_logits(b, expected));

  CHECK(lutra_session_step(b, tokens, 3) == LUTRA_OK && lutra_session_position(b) == info->context);
  memcpy(expected, lutra_session_logits(b), bytes);
  CHECK(lutra_session_step(b, tokens, 1) == LUTRA_ERROR_CONTEXT);
  CHECK(same_logits(b, expected));
  CHECK(lutra_check(model) == LUTRA_OK);
  CHECK(same_logits(b, expected));
  lutra_session_free(a);
  lutra_session_free(b);
  lutra_session_free(NULL);
  free(expected);
  free(tokens);
}

int main(int argc, char **argv) {
  printf("%d\n", lutra_default_threads());
  if (argc < 2) return 0;
  for (int status = LUTRA_OK; status <= LUTRA_ERROR_RESULT; status++) {
    CHECK(strlen(lutra_status_text((lutra_status)status)) > 1);
  }
  loading(argv[1]);
  lutra_model *model;
  CHECK(lutra_load(argv[1], NULL, &model) == LUTRA_OK);
  CHECK(lutra_threads(model) == lutra_default_threads());
  CHECK(lutra_check(NULL) == LUTRA_ERROR_ARGUMENT && lutra_check(model) == LUTRA_OK);
  sessions(model);
  lutra_free(model);
  return 0;
}
