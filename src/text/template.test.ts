import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { thrown } from '../common/testing.ts';
import type { TextSource } from './source.ts';
import { createChatTemplate } from './template.ts';

function source(files: Record<string, unknown>): TextSource {
  const texts = Object.entries(files).map(
    ([name, value]) => [name, typeof value === 'string' ? value : JSON.stringify(value)] as const,
  );
  return { path: 'some/model', textFiles: new Map(texts), config: {}, generationConfig: {} };
}

// As in microsoft/bitnet-b1.58-2B-4T.
const BITNET =
  "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = message['role'] | capitalize + ': '+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";

const turns = [
  { role: 'system', content: 'Be brief. ' },
  { role: 'user', content: ' Hi' },
  { role: 'assistant', content: 'Hello!' },
  { role: 'user', content: 'Bye' },
] as const;

describe('createChatTemplate', () => {
  it('renders the template of BitNet b1.58 2B-4T', () => {
    const template = createChatTemplate(
      source({ 'tokenizer_config.json': { bos_token: '<|begin_of_text|>', chat_template: BITNET } }),
    );
    const start =
      '<|begin_of_text|>System: Be brief.<|eot_id|>User: Hi<|eot_id|>Assistant: Hello!<|eot_id|>User: Bye<|eot_id|>';
    expect(template.render(turns)).toBe(`${start}Assistant: `);
    expect(template.render(turns, { addGenerationPrompt: false })).toBe(start);
  });

  it("renders the embedded model's template", () => {
    const file = new URL('../../models/tiny-bitnet/tokenizer_config.json', import.meta.url);
    const template = createChatTemplate(source({ 'tokenizer_config.json': readFileSync(file, 'utf8') }));
    expect(template.render([{ role: 'user', content: 'What is 4 + 106?' }])).toBe(
      '<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is 4 + 106?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n',
    );
  });

  it('reads token texts written as objects, and gives templates what they ask for', () => {
    const text =
      "{{ bos_token }}{{ eos_token }}{% if tools is not none %}tools{% endif %}{{ messages[0] | tojson }}{{ strftime_now('%Y') | length }}";
    const template = createChatTemplate(
      source({
        'tokenizer_config.json': { bos_token: { content: '<s>' }, chat_template: text },
        'special_tokens_map.json': { bos_token: 'wrong', eos_token: { content: '</s>' } },
      }),
    );
    expect(template.render([{ role: 'user', content: '"é"' }])).toBe(
      '<s></s>{"role": "user", "content": "\\"é\\""}4',
    );
  });

  it('prefers chat_template.jinja, and of named templates the default', () => {
    const named = [
      { name: 'tool_use', template: 'tools' },
      { name: 'default', template: 'plain' },
    ];
    const config = { 'tokenizer_config.json': { chat_template: named } };
    expect(createChatTemplate(source(config)).render(turns)).toBe('plain');
    expect(createChatTemplate(source({ ...config, 'chat_template.jinja': 'file' })).render(turns)).toBe(
      'file',
    );
    const lone = { chat_template: [{ name: 'rag', template: 'only' }] };
    expect(createChatTemplate(source({ 'tokenizer_config.json': lone })).render(turns)).toBe('only');
  });

  it('says that there is none, and what to do', () => {
    for (const files of [
      {},
      { 'tokenizer_config.json': {} },
      { 'tokenizer_config.json': { chat_template: 7 } },
    ]) {
      const error = thrown(() => createChatTemplate(source(files)));
      expect(error.code).toBe('not-found');
      expect(error.message).toBe('some/model has no chat template');
      expect(error.hint).toContain('--raw');
    }
    const others = { chat_template: [{ name: 'a', template: '' }, { name: 'b', template: '' }, null] };
    const error = thrown(() => createChatTemplate(source({ 'tokenizer_config.json': others })));
    expect(error.message).toBe(
      'no chat template named "default" in tokenizer_config.json of some/model (a, b)',
    );
  });

  it('reports templates that do not parse or that refuse the conversation', () => {
    const broken = thrown(() => createChatTemplate(source({ 'chat_template.jinja': '{% if %}' })));
    expect(broken.code).toBe('invalid');
    expect(broken.message).toContain('chat_template.jinja of some/model does not parse');
    const picky = createChatTemplate(
      source({ 'chat_template.jinja': "{{ raise_exception('roles must alternate') }}" }),
    );
    const refused = thrown(() => picky.render(turns));
    expect(refused.code).toBe('invalid');
    expect(refused.message).toContain('roles must alternate');
  });
});
