// @ts-check
/**
 * The values that an option takes, as the text of `--help` lists them.
 * @param {string} help
 * @param {string} option
 * @returns {string[]}
 */
export function parseChoices(help, option) {
  const flat = help.replace(/\s+/g, ' ');
  const from = flat.indexOf(`--${option} `);
  if (from < 0) return [];
  const list = /\(choices: ([^)]*)\)/.exec(flat.slice(from));
  // The next option's choices are not this one's.
  const next = flat.slice(from + 2).search(/ --[a-z]/);
  if (list === null || (next >= 0 && list.index > next)) return [];
  return [...(list[1] ?? '').matchAll(/"([^"]+)"/g)].map(([, name]) => name ?? '');
}
