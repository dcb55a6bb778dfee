/** Instructions that a machine may have and that are otherwise written out in simpler ones. */
export type NativeOp = 'dot2' | 'madd' | 'dot4' | 'lookup16' | 'lookup128' | 'averageRound' | 'f16';

/**
 * What kernels and the legalizer need to know of a processor, and all they may know: schedules choose
 * their shape by it, and `legalize` rewrites a function until every value fits.
 */
export interface Machine {
  /** `c:avx2`, `wasm:relaxed`, ... */
  readonly name: string;
  /** Bytes of a vector register; 4 means scalar code only. */
  readonly vectorBytes: 4 | 16 | 32 | 64;
  readonly vectorRegisters: number;
  readonly native: ReadonlySet<NativeOp>;
  /** Largest `aMax` that the native dot2 and dot4 take: 127 where the codes are signed bytes underneath. */
  readonly dotCodeMax: 127 | 255;
  /** Whether its compiler may join two vectors to one where they are stored side by side, with no load between. */
  readonly joinsStores?: boolean;
  /** Bytes of cache private to a core, for blocking. */
  readonly l1Bytes: number;
  readonly l2Bytes: number;
}
