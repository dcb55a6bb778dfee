/** The layout of generated C. */

/** Columns of a line. */
const WIDTH = 110;

/** Where to break a line: outside of as many parentheses as possible, rather after a comma, and as late as possible. */
function breakAt(text: string, from: number): number {
  let [best, least, depth] = [-1, Number.POSITIVE_INFINITY, 0];
  for (let i = 0; i < WIDTH; i++) {
    if (text[i] === '(') depth++;
    if (text[i] === ')') depth--;
    if (text[i] !== ' ' || i <= from) continue;
    const cost = 2 * depth + (text[i - 1] === ',' ? 0 : 1);
    if (cost <= least) [best, least] = [i, cost];
  }
  return best;
}

/** A statement at a depth of blocks, on several lines where one is too long. */
export function wrapLine(statement: string, depth: number): readonly string[] {
  const lines: string[] = [];
  const further = '  '.repeat(depth + 2);
  let rest = '  '.repeat(depth) + statement;
  while (rest.length > WIDTH) {
    const at = breakAt(rest, WIDTH / 2);
    if (at < 0) break;
    lines.push(rest.slice(0, at));
    rest = further + rest.slice(at + 1);
  }
  return [...lines, rest];
}
