import { expect, test } from 'vitest';
import { parseChoices } from './choices.mjs';

const HELP = `Options:
  -o, --output <dir>  the folder to write
  --head <form>       the output head: as stored, or
                      8 bits (choices: "stored",
                      "int8")
  --plain             nothing to choose
  --cache <type>      elements (choices: "f32", "f16")
`;

test.each([
  ['head', ['stored', 'int8']],
  ['cache', ['f32', 'f16']],
  ['plain', []],
  ['output', []],
  ['absent', []],
])('choices of --%s', (option, choices) => {
  expect(parseChoices(HELP, option)).toEqual(choices);
});
