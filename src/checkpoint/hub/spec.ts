import { LutraError } from '../../common/errors.ts';
import { quote } from '../failure.ts';

/** A model on the hub. */
export interface RepoSpec {
  /** `organization/name`, or a bare `name` for the oldest models. */
  readonly repo: string;
  /** A branch, a tag or a commit. */
  readonly revision: string;
}

const PREFIX = 'hf:';
const NAME = /^[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?$/;
const REVISION = /^\w[\w.+-]*(?:\/\w[\w.+-]*)*$/;

/** Whether `text` explicitly asks for the hub. */
export function hasHubPrefix(text: string): boolean {
  return text.startsWith(PREFIX);
}

/** Whether `text` could be `organization/name[@revision]`. */
export function looksLikeRepo(text: string): boolean {
  const { repo, revision } = split(text);
  return isRepo(repo) && repo.includes('/') && isRevision(revision);
}

/**
 * Parses `hf:organization/name[@revision]`; the prefix may be missing.
 * @throws `usage` for anything else; what it accepts can be part of a URL and of a path, without leaving it
 */
export function parseRepoSpec(text: string): RepoSpec {
  const { repo, revision } = split(hasHubPrefix(text) ? text.slice(PREFIX.length) : text);
  const hint = 'Write it as hf:organization/name, or hf:organization/name@revision.';
  if (!isRepo(repo))
    throw new LutraError('usage', `${quote(repo)} is not the name of a model on the hub`, { hint });
  if (!isRevision(revision))
    throw new LutraError('usage', `${quote(revision)} is not a revision of a model`, { hint });
  return { repo, revision };
}

function split(text: string): RepoSpec {
  const at = text.indexOf('@');
  return at < 0
    ? { repo: text, revision: 'main' }
    : { repo: text.slice(0, at), revision: text.slice(at + 1) };
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
