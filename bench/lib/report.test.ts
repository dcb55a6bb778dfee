import { describe, expect, test } from 'vitest';
import { parseArguments } from './arguments.mjs';
import { goalOf, reaches } from './goals.mjs';
import { fillSection, markdownReport, markdownTable, short, textReport } from './report.mjs';

const results = {
  format: 'lutra-bench',
  version: 1,
  started: '2026-01-02T03:04:05Z',
  seconds: 600,
  quick: true,
  command: 'npm run bench -- --quick',
  machine: {
    cpu: 'CPU | 9000',
    physicalCores: 2,
    virtual: true,
    features: ['avx2'],
    memoryBytes: 2 ** 34,
    caches: { l1d: 32768, l2: 1 << 20, l3: 1 << 25 },
    system: 'linux-x64 6',
    node: '20.1.0',
    compiler: 'clang',
    code: { commit: 'abc', date: '2026-01-01', changed: 3 },
  },
  limits: [{ target: 'c:avx2', threads: 1, node: '20.1.0', bandwidths: [25.25, 20, 30], rates: [290] }],
  figures: [
    {
      id: 'native.decode.2t.int8',
      title: 'native decode, 2t | int8',
      unit: 'tokens/s',
      median: 30.25,
      min: 28,
      max: 31.5,
      repetitions: 7,
      bytesPerToken: 860e6,
      bandwidthShare: 0.934,
      arithmeticShare: 0.12,
      prediction: 32.4,
      predictionShare: 0.93,
      goal: 70,
    },
    {
      id: 'load.firstToken',
      title: 'load',
      unit: 's',
      median: 0.25,
      min: 0.25,
      max: 0.25,
      repetitions: 1,
      goal: 0.6,
      atMost: true as const,
    },
  ],
  skipped: [{ suite: 'wasm', reason: 'no engine' }],
};

test.each([
  [123.4, '123'],
  [12.34, '12.3'],
  [1.234, '1.23'],
  [3, '3'],
  [0.04, '0.04'],
])('short(%d)', (value, text) => {
  expect(short(value)).toBe(text);
});

describe('textReport', () => {
  test('aligns figures, and says what was reached, measured and left out', () => {
    const lines = textReport(results).split('\n');
    const find = (start: string) => lines.find((line) => line.startsWith(start))!;
    expect(find('native').split(/ {2,}/)).toEqual([
      'native decode, 2t | int8',
      '30.3',
      '28-31.5',
      '7',
      'tokens/s',
      '860',
      '93 %',
      '12 %',
      '32.4',
      '93 %',
      '>= 70 no',
    ]);
    expect(find('load')).toMatch(/0\.25 +1 {2}s +<= 0\.60 yes$/);
    const column = find('figure').indexOf('unit');
    expect(find('native').slice(column, column + 8)).toBe('tokens/s');
    expect(find('  c:avx2')).toContain('reads 25.3 (20-30) GB/s, multiplies and adds 290 (290-290) GOP/s');
    expect(lines).toContain('left out: wasm: no engine');
    expect(lines[1]).toBe('code abc of 2026-01-01, 3 files changed since');
    expect(textReport({ ...results, limits: [] })).not.toContain('limits');
  });
});

describe('markdownReport', () => {
  test('has a table for each kind of figure, without empty columns', () => {
    const text = markdownReport(results);
    expect(text).toContain('### Decode and prefill, native');
    expect(text).not.toContain('### WebAssembly');
    expect(text).toContain('| figure | median | n | unit | goal |\n');
    expect(text).toContain('| native decode, 2t \\| int8 | 30.3 | 28-31.5 | 7 |');
    expect(text).toContain('Left out: wasm: no engine');
  });

  test('says of every run by what command it was made', () => {
    const other = {
      ...results,
      command: 'npm run bench:peers',
      figures: [{ ...results.figures[0]!, id: 'peers.decode' }],
    };
    const text = markdownReport(results, [other]);
    expect(text).toMatch(
      /^- CPU \| 9000.*\n- code abc.*`npm run bench -- --quick`.*\n- code abc.*`npm run bench:peers`/,
    );
    expect(text).toContain('### Decode and prefill, native');
    expect(text).toContain('### Beside node-llama-cpp');
    const again = { ...results, figures: [{ ...results.figures[0]!, median: 12.5 }] };
    expect(markdownReport(results, [again])).toMatch(/native decode, 2t \\\| int8 \| 12\.5 /);
    expect(markdownReport(results, [again])).not.toContain('30.3');
  });

  test('markdownTable', () => {
    expect(
      markdownTable([
        ['a', 'b'],
        ['1', '2'],
      ]),
    ).toBe('| a | b |\n| --- | --- |\n| 1 | 2 |\n');
  });
});

describe('fillSection', () => {
  const page = 'before\n<!-- x: written by npm run bench:docs -->\nold\n<!-- end of x -->\nafter\n';

  test('replaces what is between, again and again', () => {
    const once = fillSection(page, 'x', 'new\n');
    expect(once).toBe(
      'before\n<!-- x: written by npm run bench:docs -->\n\nnew\n\n<!-- end of x -->\nafter\n',
    );
    expect(fillSection(once, 'x', 'new')).toBe(once);
  });

  test('refuses a page without it', () => {
    expect(() => fillSection(page, 'y', 'new')).toThrow(/no section/);
  });
});

test('goals go by id', () => {
  expect(goalOf('native.decode.2t.int8')).toMatchObject({ goal: 70 });
  expect(goalOf('native.decode.2t.stored')).toBeUndefined();
  expect(goalOf('wasm.node26.decode.2t')).toMatchObject({ goal: 42 });
  expect(reaches({ goal: 60 }, 61)).toBe(true);
  expect(reaches({ goal: 0.6, atMost: true }, 0.7)).toBe(false);
});

describe('parseArguments', () => {
  const suites = ['native', 'wasm', 'busy'];

  test('chooses suites in their own order', () => {
    expect(parseArguments([], suites).suites).toEqual(suites);
    expect(parseArguments(['--only', 'busy,native'], suites).suites).toEqual(['native', 'busy']);
    expect(parseArguments(['--skip', 'wasm'], suites).suites).toEqual(['native', 'busy']);
    expect(parseArguments(['--node', 'a', '--node', 'b'], suites).node).toEqual(['a', 'b']);
  });

  test('refuses a suite that does not exist, and unknown options', () => {
    expect(() => parseArguments(['--only', 'all'], suites)).toThrow(/no suite "all"/);
    expect(() => parseArguments(['--fast'], suites)).toThrow();
  });
});
