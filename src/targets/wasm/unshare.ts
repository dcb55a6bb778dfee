/**
 * The same module for a memory that is not shared. Atomic instructions are valid there too; only waiting traps, which
 * a team of one thread never does.
 */
import { LutraError } from '../../common/errors.ts';

const IMPORT_SECTION = 2;
const MEMORY = 2;
const SHARED = 2;

/** Clears the flag by which a module's first import, its memory, must be shared. Throws `invalid` for other modules. */
export function unshare(module: Uint8Array): Uint8Array {
  let at = 8;
  const unsigned = () => {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = module[at++] ?? 0;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) break;
    }
    return value >>> 0;
  };
  while (at < module.length) {
    const section = module[at++];
    const bytes = unsigned();
    if (section !== IMPORT_SECTION) {
      at += bytes;
      continue;
    }
    unsigned(); // Their number; then the two names of the first.
    for (let i = 0; i < 2; i++) {
      const length = unsigned();
      at += length;
    }
    if (module[at] !== MEMORY || at + 1 >= module.length) break;
    const copy = module.slice();
    copy[at + 1] = module[at + 1]! & ~SHARED;
    return copy;
  }
  throw new LutraError('invalid', 'wasm: the module was not emitted by lutra');
}
