/*
 * Runs generated C as a program of its own, for sanitizers: kernels on buffers of exactly their size, or steps.
 *
 *   harness kernels VARIANT INPUT OUTPUT    the input is described in sanitize.test.ts
 *   harness steps VARIANT THREADS COUNT WEIGHTS
 */
#include MODEL

static i32 read_i32(FILE *f) {
  i32 value = 0;
  if (fread(&value, 4, 1, f) != 1) exit(3);
  return value;
}

static void read_bytes(void *to, size_t size, FILE *f) {
  if (size > 0 && fread(to, 1, size, f) != size) exit(3);
}

static void run_case(Model *model, FILE *in, FILE *out) {
  char name[64] = {0};
  read_bytes(name, (size_t)read_i32(in), in);
  const i32 begin = read_i32(in), end = read_i32(in), scalar_count = read_i32(in), buffer_count = read_i32(in);
  double scalars[16];
  void *buffers[32];
  size_t sizes[32];
  read_bytes(scalars, 8 * (size_t)scalar_count, in);
  for (i32 i = 0; i < buffer_count; i++) {
    sizes[i] = (size_t)read_i32(in);
    buffers[i] = malloc(sizes[i]);
    read_bytes(buffers[i], sizes[i], in);
  }
  if (lutra_call(model, name, buffers, buffer_count, scalars, scalar_count, begin, end) != 0) exit(4);
  for (i32 i = 0; i < buffer_count; i++) {
    fwrite(buffers[i], 1, sizes[i], out);
    free(buffers[i]);
  }
}

int main(int argc, char **argv) {
  char error[256];
  const int steps = argc == 6 && strcmp(argv[1], "steps") == 0;
  Model *model = lutra_open(steps ? argv[5] : "", argv[2], steps ? atoi(argv[3]) : 1, error, sizeof error);
  if (model == NULL) {
    fprintf(stderr, "%s\n", error);
    return 2;
  }
  if (steps) {
    const i32 gone = lutra_cache_new(model), other = lutra_cache_new(model);
    lutra_cache_free(model, gone);
    const i32 cache = lutra_cache_new(model);
    const i32 outputs[5] = {0, 0, 0, 1, 2};
    f32 *logits = calloc(1 << 16, 4);
    const i32 tokens[4] = {1, 2, 3, 4};
    for (i32 i = 0; i < atoi(argv[4]); i++) {
      const i32 sequences[8] = {0, 3, i, cache, 3, 4, i, other};
      lutra_step(model, tokens, 4, sequences, 2, outputs, logits);
    }
    free(logits);
    lutra_cache_free(model, cache);
  } else {
    FILE *in = fopen(argv[3], "rb"), *out = fopen(argv[4], "wb");
    for (i32 count = read_i32(in); count > 0; count--) run_case(model, in, out);
    fclose(in);
    fclose(out);
  }
  lutra_close(model);
  return 0;
}
