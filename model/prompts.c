#include "model/prompts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

cvx_status cvx_check_utf8(const char *text, const char *what)
{
    const unsigned char *p = (const unsigned char *)text;

    while (*p != 0) {
        int n = *p < 0x80 ? 0 : *p >= 0xc2 && *p < 0xe0 ? 1 : (*p & 0xf0) == 0xe0 ? 2 : 3;
        bool ok = n < 3 || (*p >= 0xf0 && *p < 0xf5);
        ok = ok && !(*p >= 0x80 && *p < 0xc2);
        for (int i = 1; ok && i <= n; i++) {
            ok = (p[i] & 0xc0) == 0x80;
        }
        ok = ok && !(*p == 0xe0 && p[1] < 0xa0) && !(*p == 0xed && p[1] > 0x9f) &&
             !(*p == 0xf0 && p[1] < 0x90) && !(*p == 0xf4 && p[1] > 0x8f);
        if (!ok) {
            return cvx_fail(CVX_EINVAL,
                            "%s: byte %zu (0x%02x) is not UTF-8; prompts must be UTF-8 text", what,
                            (size_t)(p - (const unsigned char *)text), *p);
        }
        p += n + 1;
    }
    return CVX_OK;
}

/* "33: text": the frame and where the text begins. */
static bool split(const char *item, int64_t *frame, const char **text)
{
    char *end;

    errno = 0;
    long long n = strtoll(item, &end, 10);
    if (end == item || errno != 0 || n < 0 || item[0] < '0' || item[0] > '9' || *end != ':') {
        return false;
    }
    *frame = n;
    for (*text = end + 1; **text == ' '; (*text)++) {
    }
    return true;
}

static cvx_status add(cvx_prompts *p, const char *item, int number, int total)
{
    int k = p->n++;

    if (total == 1) {
        p->text[0] = item;
        return CVX_OK;
    }
    if (!split(item, &p->first[k], &p->text[k])) {
        return cvx_fail(CVX_EINVAL,
                        "--prompt \"%.60s\": one of several must begin with its first frame, as "
                        "in \"33: a blue circle\"",
                        item);
    }
    if (k == 0 ? p->first[0] != 0 : p->first[k] <= p->first[k - 1]) {
        return cvx_fail(CVX_EINVAL,
                        "--prompt \"%.60s\" (%d of %d): the first must begin at frame 0 and each "
                        "other after the one before it",
                        item, number, total);
    }
    return CVX_OK;
}

cvx_status cvx_prompts_parse(cvx_prompts *out, const cvx_opt_list *given)
{
    cvx_prompts p = {0};

    if (given->n == 0) {
        return cvx_fail(CVX_EINVAL, "--prompt is needed (--help tells more)");
    }
    for (int i = 0; i < given->n; i++) {
        CVX_RETURN_IF(cvx_check_utf8(given->item[i], "--prompt"));
    }
    for (int i = 0; i < given->n; i++) {
        CVX_RETURN_IF(add(&p, given->item[i], i + 1, given->n));
    }
    *out = p;
    return CVX_OK;
}

int cvx_prompts_at(const cvx_prompts *p, int64_t frame)
{
    int k = 0;

    while (k + 1 < p->n && p->first[k + 1] <= frame) {
        k++;
    }
    return k;
}

void cvx_prompts_stretch(cvx_prompts *p, int64_t times)
{
    for (int i = 0; i < p->n; i++) {
        p->first[i] *= times;
    }
}

const char *cvx_prompts_title(const cvx_opt_list *given, char *out, size_t size)
{
    size_t at = 0;

    for (int i = 0; i < given->n; i++) {
        const char *part[2] = {i > 0 ? " | " : "", given->item[i]};
        for (int k = 0; k < 2; k++) {
            for (const char *c = part[k]; *c != 0 && at + 1 < size; c++) {
                out[at++] = *c;
            }
        }
    }
    /* a cut may fall into a character: its first bytes go too */
    if (at + 1 == size) {
        while (at > 0 && ((unsigned char)out[at - 1] & 0xc0) == 0x80) {
            at--;
        }
        at -= at > 0 && (unsigned char)out[at - 1] >= 0xc0;
    }
    out[at] = 0;
    return out;
}
