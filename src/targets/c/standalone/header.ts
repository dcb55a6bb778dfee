/** lutra.h: the interface of a model for devices without Node. It is the same for every model. */
export const HEADER = `\
/*
 * A language model as a C library. One model is one file of weights and one library.
 *
 *   lutra_model *model;
 *   lutra_session *session;
 *   lutra_load("weights.bin", NULL, &model);
 *   lutra_session_new(model, &session);
 *   lutra_session_step(session, tokens, count);      the logits of what may follow the last of them
 *   const float *logits = lutra_session_logits(session);
 *   lutra_session_free(session);
 *   lutra_free(model);
 *
 * Whatever fails returns a status that is not LUTRA_OK and changes nothing. All functions may be called from any
 * thread, but those of one model and its sessions only one at a time.
 */
#ifndef LUTRA_H
#define LUTRA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Counts up when a program that was written for this header has to be changed. */
#define LUTRA_API_VERSION 1

#if defined(__GNUC__)
#define LUTRA_API __attribute__((visibility("default")))
#else
#define LUTRA_API
#endif

typedef enum {
  LUTRA_OK = 0,
  LUTRA_ERROR_ARGUMENT = 1,  /* a null pointer, a token or a number out of range */
  LUTRA_ERROR_FILE = 2,      /* the weights cannot be read, or are those of another model */
  LUTRA_ERROR_MEMORY = 3,    /* not enough memory, or threads cannot be started */
  LUTRA_ERROR_PROCESSOR = 4, /* there is no such variant, or this processor lacks its instructions */
  LUTRA_ERROR_CONTEXT = 5,   /* the tokens do not fit the context any more */
  LUTRA_ERROR_RESULT = 6     /* lutra_check found wrong results */
} lutra_status;

/* The status in words. */
LUTRA_API const char *lutra_status_text(lutra_status status);

/* What is known of the model without loading it. */
typedef struct {
  const char *name;
  int32_t vocabulary;         /* tokens are 0 .. vocabulary - 1 */
  int32_t context;            /* tokens that a session holds */
  int64_t weights_bytes;      /* of the weights file; it is mapped, not copied */
  int64_t working_bytes;      /* memory of a loaded model */
  int64_t session_bytes;      /* most memory of a session; it grows with the tokens in it */
  const int32_t *end_tokens;  /* any of these ends a text */
  int32_t end_token_count;
} lutra_info;

LUTRA_API const lutra_info *lutra_get_info(void);

typedef struct {
  int32_t threads;     /* 0: lutra_default_threads() */
  const char *variant; /* code for one instruction set; NULL: the best that this processor has */
} lutra_options;

/* One for each core but the small ones, of the cores that this process may use. */
LUTRA_API int32_t lutra_default_threads(void);

typedef struct lutra_model lutra_model;
typedef struct lutra_session lutra_session;

/* Maps the weights and starts threads. options may be NULL. */
LUTRA_API lutra_status lutra_load(const char *weights, const lutra_options *options, lutra_model **model);

/* Frees a model, whose sessions must have been freed. NULL is allowed. */
LUTRA_API void lutra_free(lutra_model *model);

/* The variant and the number of threads in use. */
LUTRA_API const char *lutra_variant(const lutra_model *model);
LUTRA_API int32_t lutra_threads(const lutra_model *model);

/*
 * Computes what the compiler computed when it made this model: LUTRA_ERROR_RESULT says that code, weights or
 * processor are damaged. It takes about as long as six tokens.
 */
LUTRA_API lutra_status lutra_check(lutra_model *model);

/* An empty conversation. */
LUTRA_API lutra_status lutra_session_new(lutra_model *model, lutra_session **session);

/* NULL is allowed. */
LUTRA_API void lutra_session_free(lutra_session *session);

/* Appends count tokens, one or more. */
LUTRA_API lutra_status lutra_session_step(lutra_session *session, const int32_t *tokens, int32_t count);

/* One float for each token of the vocabulary, valid until the next call for this session; NULL before any step. */
LUTRA_API const float *lutra_session_logits(const lutra_session *session);

/* Tokens in the session. */
LUTRA_API int32_t lutra_session_position(const lutra_session *session);

/* Forgets everything after the first position tokens. */
LUTRA_API lutra_status lutra_session_rewind(lutra_session *session, int32_t position);

#ifdef __cplusplus
}
#endif

#endif
`;
