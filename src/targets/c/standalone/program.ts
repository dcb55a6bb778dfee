/** main.c: a command line on lutra.h that knows tokens, not text. It is the same for every model. */
export const PROGRAM = String.raw`/*
 * Continues a list of tokens. Token numbers go in as arguments or on standard input and come out on standard output.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lutra.h"

static const char USAGE[] =
    "usage: %s [options] [TOKEN ...]\n"
    "Continues the tokens, or without any those on standard input.\n"
    "  -w FILE          weights (default: weights.bin)\n"
    "  -n N             at most N new tokens (default: 128)\n"
    "  -t N             threads (default: one for each big core)\n"
    "  --temperature X  draw tokens; 0 (default) always takes the likeliest\n"
    "  --seed N         repeat the same draw (default: 1)\n"
    "  --variant NAME   code for one instruction set (default: the best there is)\n"
    "  --stats          speed, on standard error\n"
    "  --info           what this model is\n"
    "  --check          whether it computes here what it must\n";

typedef struct {
  const char *weights;
  lutra_options load;
  long long new_tokens;
  double temperature;
  uint64_t seed;
  int stats, info, check;
  int32_t *tokens;
  int32_t count;
} Arguments;

static void fail(const char *what, const char *value) {
  fprintf(stderr, "lutra: %s%s%s\n", what, value == NULL ? "" : ": ", value == NULL ? "" : value);
  exit(2);
}

static void check_status(lutra_status status, const char *what) {
  if (status == LUTRA_OK) return;
  fprintf(stderr, "lutra: %s: %s\n", what, lutra_status_text(status));
  exit(1);
}

static long long whole_number(const char *text, const char *refusal, long long low, long long high) {
  char *end;
  errno = 0;
  const long long value = strtoll(text, &end, 10);
  if (end == text || *end != 0 || errno != 0 || value < low || value > high) fail(refusal, text);
  return value;
}

static double decimal(const char *text, const char *refusal) {
  char *end;
  const double value = strtod(text, &end);
  if (end == text || *end != 0 || !(value >= 0 && value <= 100)) fail(refusal, text);
  return value;
}

static void add_token(Arguments *arguments, const char *text) {
  const lutra_info *info = lutra_get_info();
  if (arguments->count >= info->context) fail("more tokens than the context holds", NULL);
  arguments->tokens[arguments->count++] =
      (int32_t)whole_number(text, "not a token of this model", 0, info->vocabulary - 1);
}

static void read_tokens(Arguments *arguments) {
  char word[32];
  while (scanf("%31s", word) == 1) add_token(arguments, word);
}

static Arguments parse(int argc, char **argv) {
  Arguments a = {.weights = "weights.bin", .new_tokens = 128, .seed = 1};
  a.tokens = malloc((size_t)lutra_get_info()->context * sizeof *a.tokens);
  if (a.tokens == NULL) check_status(LUTRA_ERROR_MEMORY, "no room for tokens");
  for (int i = 1; i < argc; i++) {
    const char *option = argv[i];
    if (*option != '-') {
      add_token(&a, option);
    } else if (strcmp(option, "--help") == 0 || strcmp(option, "-h") == 0) {
      printf(USAGE, argv[0]);
      exit(0);
    } else if (strcmp(option, "--stats") == 0) {
      a.stats = 1;
    } else if (strcmp(option, "--info") == 0) {
      a.info = 1;
    } else if (strcmp(option, "--check") == 0) {
      a.check = 1;
    } else {
      const char *value = ++i < argc ? argv[i] : NULL;
      if (value == NULL) fail("unknown option, or its value is missing (see --help)", option);
      if (strcmp(option, "-w") == 0) {
        a.weights = value;
      } else if (strcmp(option, "-n") == 0) {
        a.new_tokens = whole_number(value, "-n is not a number of tokens", 0, INT32_MAX);
      } else if (strcmp(option, "-t") == 0) {
        a.load.threads = (int32_t)whole_number(value, "-t is not a number from 1 to 256", 1, 256);
      } else if (strcmp(option, "--temperature") == 0) {
        a.temperature = decimal(value, "--temperature is not a number from 0 to 100");
      } else if (strcmp(option, "--seed") == 0) {
        a.seed = (uint64_t)whole_number(value, "--seed is not a number", 0, INT64_MAX);
      } else if (strcmp(option, "--variant") == 0) {
        a.load.variant = value;
      } else {
        fail("unknown option (see --help)", option);
      }
    }
  }
  if (!a.info && !a.check && a.count == 0) read_tokens(&a);
  return a;
}

static int32_t likeliest(const float *logits, int32_t count) {
  int32_t best = 0;
  for (int32_t i = 1; i < count; i++) {
    if (logits[i] > logits[best]) best = i;
  }
  return best;
}

/* From 0 to 1; xorshift64*. */
static double uniform(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return (double)((*state * UINT64_C(0x2545f4914f6cdd1d)) >> 11) / 9007199254740992.0;
}

/* Each token as often as the softmax of logits / temperature says. */
static int32_t draw(const float *logits, int32_t count, double temperature, uint64_t *state) {
  const int32_t best = likeliest(logits, count);
  if (temperature == 0) return best;
  double sum = 0;
  for (int32_t i = 0; i < count; i++) sum += exp((logits[i] - logits[best]) / temperature);
  double left = uniform(state) * sum;
  for (int32_t i = 0; i < count; i++) {
    left -= exp((logits[i] - logits[best]) / temperature);
    if (left < 0) return i;
  }
  return best;
}

static int ends(int32_t token) {
  const lutra_info *info = lutra_get_info();
  for (int32_t i = 0; i < info->end_token_count; i++) {
    if (token == info->end_tokens[i]) return 1;
  }
  return 0;
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void print_info(const lutra_model *model) {
  const lutra_info *info = lutra_get_info();
  printf("model     %s\n", info->name);
  printf("tokens    %d of vocabulary, %d of context\n", info->vocabulary, info->context);
  printf("memory    %lld bytes of weights, %lld to work, up to %lld for a session\n", (long long)info->weights_bytes,
         (long long)info->working_bytes, (long long)info->session_bytes);
  printf("variant   %s\n", lutra_variant(model));
  printf("threads   %d\n", lutra_threads(model));
}

static void generate(lutra_session *session, const Arguments *a) {
  const lutra_info *info = lutra_get_info();
  uint64_t state = a->seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
  const double start = seconds();
  check_status(lutra_session_step(session, a->tokens, a->count), "the prompt");
  const double begin = seconds();
  long long made = 0;
  while (made < a->new_tokens) {
    const int32_t token = draw(lutra_session_logits(session), info->vocabulary, a->temperature, &state);
    if (ends(token)) break;
    printf(made == 0 ? "%d" : " %d", token);
    fflush(stdout);
    made++;
    if (made == a->new_tokens || lutra_session_position(session) == info->context) break;
    check_status(lutra_session_step(session, &token, 1), "a token");
  }
  printf("\n");
  if (!a->stats) return;
  fprintf(stderr, "prompt %d tokens in %.3f s; %lld new tokens in %.3f s, %.1f a second\n", a->count, begin - start,
          made, seconds() - begin, (double)made / (seconds() - begin));
}

int main(int argc, char **argv) {
  Arguments arguments = parse(argc, argv);
  if (!arguments.info && !arguments.check && arguments.count == 0) fail("no tokens to continue (see --help)", NULL);
  lutra_model *model;
  check_status(lutra_load(arguments.weights, &arguments.load, &model), arguments.weights);
  if (arguments.info) print_info(model);
  if (arguments.check) {
    check_status(lutra_check(model), lutra_variant(model));
    printf("%s: results are right\n", lutra_variant(model));
  }
  if (arguments.count > 0) {
    lutra_session *session;
    check_status(lutra_session_new(model, &session), "a session");
    generate(session, &arguments);
    lutra_session_free(session);
  }
  lutra_free(model);
  free(arguments.tokens);
  return 0;
}
`;
