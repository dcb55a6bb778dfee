import { describe, expect, test } from 'vitest';
import { apart, barPlot, linePlot, niceTicks } from './plot.ts';

/** A well-formedness check that needs no parser: every element that opens also closes, in order. */
function checkNesting(svg: string): string[] {
  const names: string[] = [];
  const open: string[] = [];
  for (const [, closing, name, rest] of svg.matchAll(/<(\/?)([a-z]+)([^>]*)>/g)) {
    names.push(name!);
    if (closing === '/') expect(open.pop()).toBe(name);
    else if (!rest!.endsWith('/')) open.push(name!);
  }
  expect(open).toEqual([]);
  return names;
}

describe('niceTicks', () => {
  test.each([
    [47, [0, 10, 20, 30, 40, 50]],
    [1, [0, 0.2, 0.4, 0.6, 0.8, 1]],
    [0.93, [0, 0.2, 0.4, 0.6, 0.8, 1]],
    [12, [0, 2.5, 5, 7.5, 10, 12.5]],
    [0, [0, 1]],
  ])('up to %d', (max, ticks) => {
    expect(niceTicks(max)).toEqual(ticks);
  });
});

test('labels that would cover each other move apart and stay in the plot', () => {
  const moved = apart([{ y: 100 }, { y: 95 }, { y: 300 }, { y: 299 }], 10, 300);
  expect(moved.map(({ y }) => y)).toEqual([95, 105, 290, 300]);
});

describe('linePlot', () => {
  const plot = {
    title: 'speed <of> "a" & b',
    x: 'threads',
    y: 'tokens/s',
    series: [
      {
        label: 'decode',
        points: [
          { x: 2, y: 30, low: 25, high: 40 },
          { x: 1, y: 20 },
        ],
      },
    ],
  };

  test('is well-formed, escapes text and has both colour schemes', () => {
    const svg = linePlot(plot);
    const names = checkNesting(svg);
    expect(names.filter((name) => name === 'path')).toHaveLength(1);
    expect(svg).toContain('speed &#60;of&#62; &#34;a&#34; &#38; b');
    expect(svg).toContain('prefers-color-scheme: dark');
    expect(svg).not.toMatch(/NaN|undefined|Infinity/);
  });

  test('places points by value: sorted by x, twice the value twice as high', () => {
    const path = / d="([^"]*)"/.exec(linePlot(plot))![1]!;
    // Axes: x from 0 to 2 over 68 to 530, y from 0 to 40 over 362 to 96.
    expect(path).toBe('M299 229 L530 162.5');
  });

  test('refuses to draw nothing', () => {
    expect(() => linePlot({ ...plot, series: [] })).toThrow(/nothing to plot/);
  });
});

test('barPlot draws bars to scale and caps those above it', () => {
  const bars = [
    { label: 'a', value: 50, note: '20 tokens/s', group: 'native' },
    { label: 'b', value: 130, note: '', group: 'wasm' },
  ];
  const svg = barPlot({ title: 'share', bars, max: 100, unit: ' %' });
  checkNesting(svg);
  const widths = [...svg.matchAll(/<rect class="f\d" [^>]*width="([\d.]+)"/g)].map((m) => Number(m[1]));
  expect(widths).toEqual([120, 240]);
  expect(svg).toContain('50 %  20 tokens/s');
});
