#!/usr/bin/env node
// Ctrl-C while the program is still being read, which takes a second on a busy machine: nothing has begun.
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const cancelled = () => {
  process.stderr.write('lutra: cancelled\n');
  process.exit(130);
};
for (const signal of SIGNALS) process.on(signal, cancelled);
const { start } = await import('./start.ts');
const running = start();
for (const signal of SIGNALS) process.off(signal, cancelled);
await running;

export {};
