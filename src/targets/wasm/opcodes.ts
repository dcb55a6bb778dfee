/** The WebAssembly instructions that lutra emits: their binary codes and what immediates they carry. */

/** How an instruction's `args` are written after its code. */
export type Immediate =
  | 'none'
  /** One unsigned LEB128: a local, global, function or label depth. */
  | 'index'
  /** A signed LEB128 of 32 or 64 bits. */
  | 'i32'
  | 'i64'
  /** Four bytes, little endian. */
  | 'f32'
  /** [log2 of the alignment, offset] */
  | 'memory'
  /** [log2 of the alignment, offset, lane] */
  | 'memoryLane'
  /** One byte. */
  | 'lane'
  /** Sixteen bytes: a v128 constant or the lanes of a shuffle. */
  | 'bytes'
  /** A block that takes and leaves nothing: no args. */
  | 'block';

export interface Opcode {
  /** 0 for one-byte codes; else the prefix byte, after which `code` follows as LEB128. */
  readonly prefix: 0 | 0xfc | 0xfd | 0xfe;
  readonly code: number;
  readonly immediate: Immediate;
}

const plain = (code: number, immediate: Immediate = 'none'): Opcode => ({ prefix: 0, code, immediate });
const simd = (code: number, immediate: Immediate = 'none'): Opcode => ({ prefix: 0xfd, code, immediate });
const atomic = (code: number): Opcode => ({ prefix: 0xfe, code, immediate: 'memory' });

const TABLE = {
  block: plain(0x02, 'block'),
  loop: plain(0x03, 'block'),
  if: plain(0x04, 'block'),
  else: plain(0x05),
  end: plain(0x0b),
  br: plain(0x0c, 'index'),
  br_if: plain(0x0d, 'index'),
  return: plain(0x0f),
  call: plain(0x10, 'index'),
  drop: plain(0x1a),
  select: plain(0x1b),
  'local.get': plain(0x20, 'index'),
  'local.set': plain(0x21, 'index'),
  'local.tee': plain(0x22, 'index'),
  'global.get': plain(0x23, 'index'),

  'i32.load': plain(0x28, 'memory'),
  'f32.load': plain(0x2a, 'memory'),
  'i32.load8_s': plain(0x2c, 'memory'),
  'i32.load8_u': plain(0x2d, 'memory'),
  'i32.load16_s': plain(0x2e, 'memory'),
  'i32.load16_u': plain(0x2f, 'memory'),
  'i32.store': plain(0x36, 'memory'),
  'f32.store': plain(0x38, 'memory'),
  'i32.store8': plain(0x3a, 'memory'),
  'i32.store16': plain(0x3b, 'memory'),

  'i32.const': plain(0x41, 'i32'),
  'i64.const': plain(0x42, 'i64'),
  'f32.const': plain(0x43, 'f32'),

  'i32.eqz': plain(0x45),
  'i32.eq': plain(0x46),
  'i32.ne': plain(0x47),
  'i32.lt_s': plain(0x48),
  'i32.lt_u': plain(0x49),
  'i32.le_s': plain(0x4c),
  'i32.le_u': plain(0x4d),
  'i32.ge_s': plain(0x4e),
  'i32.ge_u': plain(0x4f),
  'f32.eq': plain(0x5b),
  'f32.ne': plain(0x5c),
  'f32.lt': plain(0x5d),
  'f32.le': plain(0x5f),

  'i32.popcnt': plain(0x69),
  'i32.add': plain(0x6a),
  'i32.sub': plain(0x6b),
  'i32.mul': plain(0x6c),
  'i32.div_s': plain(0x6d),
  'i32.rem_s': plain(0x6f),
  'i32.and': plain(0x71),
  'i32.or': plain(0x72),
  'i32.xor': plain(0x73),
  'i32.shl': plain(0x74),
  'i32.shr_s': plain(0x75),
  'i32.shr_u': plain(0x76),
  'i64.mul': plain(0x7e),
  'i64.div_s': plain(0x7f),
  'f32.abs': plain(0x8b),
  'f32.neg': plain(0x8c),
  'f32.nearest': plain(0x90),
  'f32.sqrt': plain(0x91),
  'f32.add': plain(0x92),
  'f32.sub': plain(0x93),
  'f32.mul': plain(0x94),
  'f32.div': plain(0x95),
  'i32.wrap_i64': plain(0xa7),
  'i64.extend_i32_s': plain(0xac),
  'f32.convert_i32_s': plain(0xb2),
  'i32.reinterpret_f32': plain(0xbc),
  'f32.reinterpret_i32': plain(0xbe),
  'i32.extend8_s': plain(0xc0),
  'i32.extend16_s': plain(0xc1),
  'i32.trunc_sat_f32_s': { prefix: 0xfc, code: 0, immediate: 'none' },

  'v128.load': simd(0, 'memory'),
  'v128.load8x8_s': simd(1, 'memory'),
  'v128.load8x8_u': simd(2, 'memory'),
  'v128.load16x4_s': simd(3, 'memory'),
  'v128.load16x4_u': simd(4, 'memory'),
  'v128.load8_splat': simd(7, 'memory'),
  'v128.load16_splat': simd(8, 'memory'),
  'v128.load32_splat': simd(9, 'memory'),
  'v128.load64_splat': simd(10, 'memory'),
  'v128.store': simd(11, 'memory'),
  'v128.const': simd(12, 'bytes'),
  'i8x16.shuffle': simd(13, 'bytes'),
  'i8x16.swizzle': simd(14),
  'i8x16.splat': simd(15),
  'i16x8.splat': simd(16),
  'i32x4.splat': simd(17),
  'f32x4.splat': simd(19),
  'i8x16.extract_lane_s': simd(21, 'lane'),
  'i8x16.extract_lane_u': simd(22, 'lane'),
  'i8x16.replace_lane': simd(23, 'lane'),
  'i16x8.extract_lane_s': simd(24, 'lane'),
  'i16x8.extract_lane_u': simd(25, 'lane'),
  'i16x8.replace_lane': simd(26, 'lane'),
  'i32x4.extract_lane': simd(27, 'lane'),
  'i32x4.replace_lane': simd(28, 'lane'),
  'f32x4.extract_lane': simd(31, 'lane'),
  'f32x4.replace_lane': simd(32, 'lane'),

  'i8x16.eq': simd(35),
  'i8x16.ne': simd(36),
  'i8x16.lt_s': simd(37),
  'i8x16.lt_u': simd(38),
  'i8x16.le_s': simd(41),
  'i8x16.le_u': simd(42),
  'i16x8.eq': simd(45),
  'i16x8.ne': simd(46),
  'i16x8.lt_s': simd(47),
  'i16x8.lt_u': simd(48),
  'i16x8.le_s': simd(51),
  'i16x8.le_u': simd(52),
  'i32x4.eq': simd(55),
  'i32x4.ne': simd(56),
  'i32x4.lt_s': simd(57),
  'i32x4.lt_u': simd(58),
  'i32x4.le_s': simd(61),
  'i32x4.le_u': simd(62),
  'f32x4.eq': simd(65),
  'f32x4.ne': simd(66),
  'f32x4.lt': simd(67),
  'f32x4.le': simd(69),

  'v128.and': simd(78),
  'v128.or': simd(80),
  'v128.xor': simd(81),
  'v128.bitselect': simd(82),
  'v128.store16_lane': simd(89, 'memoryLane'),
  'v128.store32_lane': simd(90, 'memoryLane'),
  'v128.store64_lane': simd(91, 'memoryLane'),
  'v128.load32_zero': simd(92, 'memory'),
  'v128.load64_zero': simd(93, 'memory'),

  'i8x16.abs': simd(96),
  'i8x16.neg': simd(97),
  'i8x16.popcnt': simd(98),
  'i8x16.narrow_i16x8_s': simd(101),
  'i8x16.narrow_i16x8_u': simd(102),
  'f32x4.nearest': simd(106),
  'i8x16.shr_s': simd(108),
  'i8x16.add': simd(110),
  'i8x16.sub': simd(113),
  'i8x16.min_s': simd(118),
  'i8x16.min_u': simd(119),
  'i8x16.max_s': simd(120),
  'i8x16.max_u': simd(121),
  'i8x16.avgr_u': simd(123),
  'i32x4.extadd_pairwise_i16x8_s': simd(126),
  'i16x8.abs': simd(128),
  'i16x8.neg': simd(129),
  'i16x8.narrow_i32x4_s': simd(133),
  'i16x8.narrow_i32x4_u': simd(134),
  'i16x8.extend_low_i8x16_s': simd(135),
  'i16x8.extend_high_i8x16_s': simd(136),
  'i16x8.extend_low_i8x16_u': simd(137),
  'i16x8.extend_high_i8x16_u': simd(138),
  'i16x8.shl': simd(139),
  'i16x8.shr_s': simd(140),
  'i16x8.shr_u': simd(141),
  'i16x8.add': simd(142),
  'i16x8.sub': simd(145),
  'i16x8.mul': simd(149),
  'i16x8.min_s': simd(150),
  'i16x8.min_u': simd(151),
  'i16x8.max_s': simd(152),
  'i16x8.max_u': simd(153),
  'i16x8.avgr_u': simd(155),
  'i32x4.abs': simd(160),
  'i32x4.neg': simd(161),
  'i32x4.extend_low_i16x8_s': simd(167),
  'i32x4.extend_high_i16x8_s': simd(168),
  'i32x4.extend_low_i16x8_u': simd(169),
  'i32x4.extend_high_i16x8_u': simd(170),
  'i32x4.shl': simd(171),
  'i32x4.shr_s': simd(172),
  'i32x4.shr_u': simd(173),
  'i32x4.add': simd(174),
  'i32x4.sub': simd(177),
  'i32x4.mul': simd(181),
  'i32x4.min_s': simd(182),
  'i32x4.min_u': simd(183),
  'i32x4.max_s': simd(184),
  'i32x4.max_u': simd(185),
  'i32x4.dot_i16x8_s': simd(186),
  'f32x4.abs': simd(224),
  'f32x4.neg': simd(225),
  'f32x4.sqrt': simd(227),
  'f32x4.add': simd(228),
  'f32x4.sub': simd(229),
  'f32x4.mul': simd(230),
  'f32x4.div': simd(231),
  'f32x4.pmin': simd(234),
  'f32x4.pmax': simd(235),
  'i32x4.trunc_sat_f32x4_s': simd(248),
  'f32x4.convert_i32x4_s': simd(250),

  // Relaxed SIMD: used only where every engine gives the same bits.
  'i8x16.relaxed_swizzle': simd(0x100),
  'i32x4.relaxed_trunc_f32x4_s': simd(0x101),
  'i8x16.relaxed_laneselect': simd(0x109),
  'i16x8.relaxed_dot_i8x16_i7x16_s': simd(0x112),
  'i32x4.relaxed_dot_i8x16_i7x16_add_s': simd(0x113),

  'memory.atomic.notify': atomic(0x00),
  'memory.atomic.wait32': atomic(0x01),
  'i32.atomic.load': atomic(0x10),
  'i32.atomic.store': atomic(0x17),
  'i32.atomic.rmw.add': atomic(0x1e),
  'i32.atomic.rmw.sub': atomic(0x25),
  'i32.atomic.rmw.cmpxchg': atomic(0x48),
} as const satisfies Record<string, Opcode>;

export type OpName = keyof typeof TABLE;

export const OPCODES: Readonly<Record<OpName, Opcode>> = TABLE;
