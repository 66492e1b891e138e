/* Added tokens: texts such as "</s>" or "<|endoftext|>" that a tokenizer finds
 * in a prompt before anything else and turns into one id, and the files of a
 * tokenizer folder that name them. */
#ifndef CVX_MODEL_TEXT_ADDED_H
#define CVX_MODEL_TEXT_ADDED_H

#include "base/json.h"

typedef struct cvx_added_token {
    char *text; /* owned */
    size_t len;
    int32_t id;
} cvx_added_token;

typedef struct cvx_added {
    cvx_added_token *item;
    int64_t n, cap;
} cvx_added;

/* Adds a token; one of the same text is left as it is. CVX_ENOMEM. */
cvx_status cvx_added_push(cvx_added *a, const char *text, size_t len, int32_t id) CVX_CHECK;
/* A zeroed or closed one is accepted. */
void cvx_added_close(cvx_added *a);

/* The first place at or after `from` where a token stands (the longest of those
 * that do): its start in *at. NULL: no token follows. White space around a
 * token belongs to no token either way, so the lstrip and rstrip of the files
 * change no id and are not looked at. */
const cvx_added_token *cvx_added_next(const cvx_added *a, const char *text, size_t len, size_t from,
                                      size_t *at);

/* tokenizer_config.json, special_tokens_map.json and added_tokens.json of a
 * folder; each NULL when it is not there. */
typedef struct cvx_tokenizer_files {
    json_t *config, *map, *added;
    char config_path[4096], map_path[4096], added_path[4096];
} cvx_tokenizer_files;
cvx_status cvx_tokenizer_files_open(cvx_tokenizer_files *out, const char *dir) CVX_CHECK;
void cvx_tokenizer_files_close(cvx_tokenizer_files *f);

/* The text of a named token ("eos_token"): a string or an object with
 * "content"; the map's word counts before the config's unless the config lists
 * added_tokens_decoder. *out keeps its default if no file names it; borrowed
 * from the files. CVX_EFORMAT. */
cvx_status cvx_tokenizer_files_name(const cvx_tokenizer_files *f, const char *key,
                                    const char **out) CVX_CHECK;

/* The tokens of the config's added_tokens_decoder, or of added_tokens.json when
 * there is no such list, in order of id. `lookup` gives the id that the
 * vocabulary has for a text, -1 if none; a token the vocabulary lacks gets the
 * next id from *vocab_size on. CVX_EFORMAT when a file gives another id than
 * that; CVX_EUNSUPPORTED for a token that is to be matched after normalisation
 * or as a whole word. */
cvx_status cvx_tokenizer_files_added(const cvx_tokenizer_files *f, cvx_added *out,
                                     int64_t (*lookup)(const void *vocab, const char *text,
                                                       size_t len),
                                     const void *vocab, int64_t *vocab_size) CVX_CHECK;

#endif
