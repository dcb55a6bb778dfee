/** The process that measures: takes one job by message, answers, and is gone. */
import { measureJobSchema } from './job.ts';
import { measure } from './measure.ts';

process.once('message', async (message) => {
  const result = await measure(measureJobSchema.parse(message));
  process.send?.(result, () => process.exit(0));
});
