/**
 * Layered drawing of a directed acyclic graph (Sugiyama, Tagawa and Toda, 1981): boxes go into rows by their
 * distance from the start, arrows that cross rows get a waypoint in each, rows are sorted by the barycentre
 * of their neighbours to untangle arrows, and then everything moves towards its neighbours.
 */
export interface Size {
  readonly width: number;
  readonly height: number;
}

export interface Point {
  readonly x: number;
  readonly y: number;
}

export interface Layout {
  readonly size: Size;
  /** Centres of the boxes. */
  readonly centres: readonly Point[];
  /** For each edge, from the bottom of a box through its waypoints to the top of another. */
  readonly paths: readonly (readonly Point[])[];
}

const ROW_GAP = 30;
const COLUMN_GAP = 24;
const MARGIN = 20;
const WAYPOINT_WIDTH = 6;
const SWEEPS = 8;

/** A box (`box` is its index) or a waypoint of an edge. */
interface Item {
  readonly width: number;
  readonly above: Item[];
  readonly below: Item[];
  x: number;
}

interface Edge {
  readonly from: number;
  readonly to: number;
}

/** Row of each box: one more than the lowest box above it. Edges may come in any order. */
function rowsOf(count: number, edges: readonly Edge[]): readonly number[] {
  const rows = new Array<number>(count).fill(0);
  // As many rounds as the longest path at most; edges from earlier to later boxes need one.
  for (let round = 0, changed = true; changed && round < count; round++) {
    changed = false;
    for (const { from, to } of edges) {
      if (rows[to]! > rows[from]!) continue;
      rows[to] = rows[from]! + 1;
      changed = true;
    }
  }
  return rows;
}

function mean(items: readonly Item[], otherwise: number): number {
  return items.length === 0 ? otherwise : items.reduce((sum, item) => sum + item.x, 0) / items.length;
}

/** Moves the items of a row to where they want to be, keeping their order and distance. */
function settle(row: readonly Item[], wanted: readonly number[]): void {
  const distance = (i: number) => (row[i - 1]!.width + row[i]!.width) / 2 + COLUMN_GAP;
  const fromLeft: number[] = [];
  for (const [i, x] of wanted.entries()) {
    fromLeft.push(i === 0 ? x : Math.max(x, fromLeft[i - 1]! + distance(i)));
  }
  const fromRight = [...wanted];
  for (let i = row.length - 1; i >= 0; i--) {
    if (i < row.length - 1) fromRight[i] = Math.min(wanted[i]!, fromRight[i + 1]! - distance(i + 1));
  }
  // Both keep the distances, so their mean does.
  for (const [i, item] of row.entries()) item.x = (fromLeft[i]! + fromRight[i]!) / 2;
}

function arrange(rows: Item[][]): void {
  for (const row of rows) {
    let x = 0;
    for (const item of row) {
      item.x = x + item.width / 2;
      x += item.width + COLUMN_GAP;
    }
  }
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const down = sweep % 2 === 0;
    for (const row of down ? rows : [...rows].reverse()) {
      const centre = new Map(row.map((item) => [item, mean(down ? item.above : item.below, item.x)]));
      row.sort((a, b) => centre.get(a)! - centre.get(b)!);
      settle(
        row,
        row.map((item) => centre.get(item)!),
      );
    }
  }
}

export function layoutGraph(boxes: readonly Size[], edges: readonly Edge[]): Layout {
  const rowOf = rowsOf(boxes.length, edges);
  const rows: Item[][] = Array.from({ length: Math.max(0, ...rowOf) + 1 }, () => []);
  const place = (row: number, width: number): Item => {
    const item: Item = { width, above: [], below: [], x: 0 };
    rows[row]!.push(item);
    return item;
  };
  const items = boxes.map((box, i) => place(rowOf[i]!, box.width));
  const chains = edges.map(({ from, to }) => {
    const chain = [items[from]!];
    for (let row = rowOf[from]! + 1; row < rowOf[to]!; row++) chain.push(place(row, WAYPOINT_WIDTH));
    chain.push(items[to]!);
    for (let i = 1; i < chain.length; i++) {
      chain[i - 1]!.below.push(chain[i]!);
      chain[i]!.above.push(chain[i - 1]!);
    }
    return chain;
  });
  arrange(rows);

  const heights = rows.map(() => 0);
  for (const [i, box] of boxes.entries()) heights[rowOf[i]!] = Math.max(heights[rowOf[i]!]!, box.height);
  const tops: number[] = [];
  heights.reduce((y, height) => {
    tops.push(y);
    return y + height + ROW_GAP;
  }, MARGIN);
  const all = rows.flat();
  const left = Math.min(...all.map((item) => item.x - item.width / 2)) - MARGIN;
  const right = Math.max(...all.map((item) => item.x + item.width / 2)) + MARGIN;
  const x = (item: Item) => item.x - left;
  const middle = (row: number) => tops[row]! + heights[row]! / 2;
  return {
    size: { width: right - left, height: tops.at(-1)! + heights.at(-1)! + MARGIN },
    centres: items.map((item, i) => ({ x: x(item), y: middle(rowOf[i]!) })),
    paths: edges.map(({ from, to }, e) =>
      chains[e]!.flatMap((item, i, chain): Point[] => {
        const row = rowOf[from]! + i;
        if (i === 0) return [{ x: x(item), y: middle(row) + boxes[from]!.height / 2 }];
        if (i === chain.length - 1) return [{ x: x(item), y: middle(row) - boxes[to]!.height / 2 }];
        // A waypoint spans its row, so that the arrow passes beside the boxes of the row.
        return [
          { x: x(item), y: tops[row]! },
          { x: x(item), y: tops[row]! + heights[row]! },
        ];
      }),
    ),
  };
}
