/** What builds and explains a model for devices without Node. */
import { compilerFlags } from '../compile.ts';
import type { Arch } from '../machines.ts';

/** The flags that a compiler of C needs for exact results and good code, without those for shared libraries. */
function flags(kind: 'gcc' | 'clang'): string {
  const others = /^-(O2|fPIC|shared|pthread|fvisibility=.*|std=.*)$/;
  return compilerFlags(kind)
    .filter((flag) => !others.test(flag))
    .join(' ');
}

export function cmakeProject(): string {
  return `\
cmake_minimum_required(VERSION 3.13)
project(lutra_model C)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_C_FLAGS_RELEASE "-O2")
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

# A static library, or a shared one with -DBUILD_SHARED_LIBS=ON. lutra.c includes model.c.
add_library(lutra_model lutra.c)
target_include_directories(lutra_model PUBLIC "\${CMAKE_CURRENT_SOURCE_DIR}")
set_target_properties(lutra_model PROPERTIES C_STANDARD 11 C_EXTENSIONS OFF C_VISIBILITY_PRESET hidden
  POSITION_INDEPENDENT_CODE ON)
target_link_libraries(lutra_model PUBLIC Threads::Threads m)
# Results depend on some of these: they keep float operations single and in order.
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
  target_compile_options(lutra_model PRIVATE ${flags('gcc')})
else()
  target_compile_options(lutra_model PRIVATE ${flags('clang')})
endif()

add_executable(lutra-run main.c)
set_target_properties(lutra-run PROPERTIES C_STANDARD 11 C_EXTENSIONS OFF)
target_link_libraries(lutra-run PRIVATE lutra_model)

# ctest: does the model compute here what it must? When cross-compiling, set CMAKE_CROSSCOMPILING_EMULATOR.
enable_testing()
add_test(NAME check COMMAND lutra-run -w "\${CMAKE_CURRENT_SOURCE_DIR}/weights.bin" --check)

install(TARGETS lutra_model lutra-run)
install(FILES lutra.h DESTINATION include)
install(FILES weights.bin DESTINATION share/lutra)
`;
}

/** What the README says of a model. */
export interface ReadmeFacts {
  readonly name: string;
  readonly arch: Arch | 'any';
  /** Variants of the code, best first. */
  readonly variants: readonly string[];
  readonly context: number;
  readonly vocab: number;
  readonly weightsBytes: number;
  readonly weightsSha256: string;
  readonly arenaBytes: number;
  readonly cacheBytes: number;
}

const VARIANTS: Readonly<Record<string, string>> = {
  avx512vbmi: 'AVX-512 with VNNI and VBMI',
  avx512vnni: 'AVX-512 with VNNI',
  avxvnni: 'AVX2 with VNNI',
  avx2: 'AVX2',
  i8mm: 'NEON with dot products and i8mm (Armv8.6, Armv9)',
  dotprod: 'NEON with dot products (Armv8.2: Cortex-A55, A76 and later)',
  neon: 'NEON, every 64-bit ARM processor',
  scalar: 'portable C, any processor',
};

const CROSS = `
Cross-compiled, for example by Debian's gcc-aarch64-linux-gnu:

    cmake -B build-arm -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \\
          -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc
    cmake --build build-arm
`;

export function readme(facts: ReadmeFacts): string {
  const megabytes = (bytes: number) => (bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 0);
  const code = facts.variants.map((name) => `| \`${name}\` | ${VARIANTS[name] ?? name} |`);
  return `\
# ${facts.name}

A language model as C, made by \`lutra compile --standalone\`: a library, and a command that continues lists of
tokens. It needs a C11 compiler (GCC or Clang), CMake, POSIX threads, and nothing else.

| file | |
|---|---|
| \`lutra.h\` | the interface, the same for every model |
| \`lutra.c\` | its functions, and the facts of this model |
| \`model.c\` | the generated code; \`lutra.c\` includes it |
| \`main.c\` | the command |
| \`weights.bin\` | the weights: ${megabytes(facts.weightsBytes)} MB, SHA-256 \`${facts.weightsSha256}\` |

## Build

    cmake -B build
    cmake --build build
    ctest --test-dir build      # does it compute here what it must?
${facts.arch === 'arm64' ? CROSS : ''}
The library has several variants of the code and takes the best that the processor runs. All compute the same
bits.

| variant | |
|---|---|
${code.join('\n')}

## Run

    build/lutra-run -n 64 1019 318 64 12      # tokens in, tokens out
    build/lutra-run --help

The command takes the likeliest token each time, or draws with \`--temperature\` and \`--seed\`. It ends at a token
that ends a text, after \`-n\` tokens, or when the context is full.

Text is not turned into tokens on the device. Where Node is, lutra does it:

    import { load } from 'lutra';
    const model = await load(MODEL);
    console.log(model.tokenize('Hello').join(' '), model.detokenize([318, 64]));

## Use

\`lutra.h\` says it all; \`main.c\` is the example. One thread at a time may use a model and its sessions.

    lutra_model *model;
    lutra_session *session;
    if (lutra_load("weights.bin", NULL, &model) != LUTRA_OK) ...
    if (lutra_session_new(model, &session) != LUTRA_OK) ...
    if (lutra_session_step(session, tokens, count) != LUTRA_OK) ...
    const float *logits = lutra_session_logits(session);      /* ${facts.vocab} of them */

## Memory and threads

${megabytes(facts.weightsBytes)} MB of weights are mapped: the system reads them when they are first used and may drop them when memory is
short. A loaded model takes ${megabytes(facts.arenaBytes)} MB, a session up to ${megabytes(facts.cacheBytes)} MB for ${facts.context} tokens.

Without \`-t\`, or with \`threads\` 0, there is one thread for each big core: those that \`cpu_capacity\` in
/sys/devices/system/cpu counts at least half as fast as the fastest. Small cores would make the others wait.
`;
}
