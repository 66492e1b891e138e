/* The prompts of a video: one for all of it, or several on a timeline. */
#ifndef CVX_MODEL_PROMPTS_H
#define CVX_MODEL_PROMPTS_H

#include "base/opts.h"

typedef struct cvx_prompts {
    int n;
    int64_t first[CVX_OPT_LIST_MAX];    /* frame from which it holds; the first one's is 0 */
    const char *text[CVX_OPT_LIST_MAX]; /* borrowed */
} cvx_prompts;

/* From --prompt given once (the text as it is) or several times (each "FRAME: text", frames from 0 on and growing).
 * CVX_EINVAL naming the prompt that is not so, or bytes that are not UTF-8; also if there is none. The texts are
 * borrowed from `given`. */
cvx_status cvx_prompts_parse(cvx_prompts *out, const cvx_opt_list *given) CVX_CHECK;

/* The index of the prompt that holds at this frame. */
int cvx_prompts_at(const cvx_prompts *p, int64_t frame);

/* For a video with `times` frames for each: where each holds from. */
void cvx_prompts_stretch(cvx_prompts *p, int64_t times);

/* As they were given, joined by " | ", cut to `size` at a whole character: titles. Returns out. */
const char *cvx_prompts_title(const cvx_opt_list *given, char *out, size_t size);

/* Strict UTF-8 (no surrogates, no overlong forms): CVX_EINVAL naming `what` and the byte. */
cvx_status cvx_check_utf8(const char *text, const char *what) CVX_CHECK;

#endif
