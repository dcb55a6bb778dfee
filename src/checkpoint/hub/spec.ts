import { LutraError } from '../../common/errors.ts';
import { quote } from '../failure.ts';
import { isGguf } from '../gguf/choose.ts';

/** A model on the hub. */
export interface RepoSpec {
  /** `organization/name`, or a bare `name` for the oldest models. */
  readonly repo: string;
  /** A branch, a tag or a commit. */
  readonly revision: string;
  /** A GGUF file of the repository. */
  readonly file?: string;
}

const PREFIX = 'hf:';
const NAME = /^[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?$/;
const FILE_PART = /^\w[\w.+-]*$/;
const REVISION = /^\w[\w.+-]*(?:\/\w[\w.+-]*)*$/;

/** Whether `text` explicitly asks for the hub. */
export function hasHubPrefix(text: string): boolean {
  return text.startsWith(PREFIX);
}

/** Whether `text` could be `organization/name[/file.gguf][@revision]`. */
export function looksLikeRepo(text: string): boolean {
  const { repo, revision, file } = split(text);
  return isRepo(repo) && repo.includes('/') && isRevision(revision) && (file === undefined || isFile(file));
}

/**
 * Parses `hf:organization/name[/file.gguf][@revision]`; the prefix may be missing.
 * @throws `usage` for anything else; what it accepts can be part of a URL and of a path, without leaving it
 */
export function parseRepoSpec(text: string): RepoSpec {
  const { repo, revision, file } = split(hasHubPrefix(text) ? text.slice(PREFIX.length) : text);
  const hint =
    'Write it as hf:organization/name, hf:organization/name/file.gguf or hf:organization/name@revision.';
  if (!isRepo(repo))
    throw new LutraError('usage', `${quote(repo)} is not the name of a model on the hub`, { hint });
  if (!isRevision(revision))
    throw new LutraError('usage', `${quote(revision)} is not a revision of a model`, { hint });
  if (file !== undefined && !isFile(file))
    throw new LutraError('usage', `${quote(file)} is not the name of a GGUF file`, { hint });
  return { repo, revision, ...(file === undefined ? {} : { file }) };
}

function split(text: string): RepoSpec {
  const at = text.indexOf('@');
  const path = at < 0 ? text : text.slice(0, at);
  const revision = at < 0 ? 'main' : text.slice(at + 1);
  const [organization, name, ...file] = path.split('/');
  if (!isGguf(path) || name === undefined || file.length === 0) return { repo: path, revision };
  return { repo: `${organization}/${name}`, revision, file: file.join('/') };
}

/** Each part is a plain name; a backslash or a drive is in none. */
function isFile(file: string): boolean {
  return file.length <= 400 && file.split('/').every((part) => FILE_PART.test(part) && !part.includes('..'));
}

function isRepo(repo: string): boolean {
  const parts = repo.split('/');
  return (
    parts.length <= 2 && repo.length <= 96 && parts.every((part) => NAME.test(part) && !/--|\.\./.test(part))
  );
}

function isRevision(revision: string): boolean {
  return revision.length <= 200 && REVISION.test(revision) && !revision.includes('..');
}
