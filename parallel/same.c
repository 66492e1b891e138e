#include "parallel/same.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

static void value_text(char out[100], const json_t *v)
{
    snprintf(out, 100, "not given");
    if (v != NULL) {
        cvx_json_text(out, v);
    }
}

/* Tells the first key whose values differ. */
static cvx_status compare(const cvx_comm *c, const json_t *own, const json_t *first)
{
    const char *key = cvx_json_difference(own, first);
    char a[100], b[100];

    if (key == NULL) {
        return CVX_OK;
    }
    value_text(a, json_object_get(own, key));
    value_text(b, json_object_get(first, key));
    return cvx_fail(CVX_EINVAL,
                    "%s is %s on rank %d and %s on rank 0: all ranks of a job need the same", key,
                    a, c->rank, b);
}

/* They are not all the same: what the first difference to rank 0's is. */
static cvx_status tell(cvx_comm *c, const json_t *own, const char *text)
{
    int64_t n = text != NULL ? (int64_t)strlen(text) : 0;
    json_t *first = NULL;
    char *theirs = NULL;
    cvx_status st =
        text != NULL ? CVX_OK : cvx_fail(CVX_ENOMEM, "no memory to compare the ranks' options");

    CVX_RETURN_IF(cvx_comm_broadcast(c, &n, sizeof n, 0));
    theirs = calloc(1, (size_t)n + 1);
    if (theirs == NULL) {
        st = cvx_fail(CVX_ENOMEM, "no memory to compare the ranks' options");
    } else if (c->rank == 0 && text != NULL) {
        memcpy(theirs, text, (size_t)n);
    }
    CVX_TRY(st, cvx_comm_agree(c, st), done);
    CVX_TRY(st, cvx_comm_broadcast(c, theirs, n, 0), done);
    st = cvx_json_parse(&first, theirs, (size_t)n, "the options of rank 0");
    st = st == CVX_OK ? compare(c, own, first) : st;
    CVX_TRY(st, cvx_comm_agree(c, st), done);
    st = cvx_fail(CVX_EINTERNAL, "ranks differ, and no rank differs from rank 0");
done:
    json_decref(first);
    free(theirs);
    return st;
}

cvx_status cvx_comm_same(cvx_comm *c, const json_t *own)
{
    cvx_sha256 h;
    char hex[65] = "";

    if (c->size == 1) {
        return CVX_OK;
    }
    char *text = own != NULL ? json_dumps(own, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
    cvx_sha256_init(&h);
    cvx_sha256_add(&h, text != NULL ? text : "", text != NULL ? strlen(text) : 0);
    cvx_sha256_hex(&h, hex);
    hex[8] = 0;
    int least = (int)(strtoul(hex, NULL, 16) >> 2), most = -least;
    cvx_status st = cvx_comm_least(c, &least);
    st = st == CVX_OK ? cvx_comm_least(c, &most) : st;
    if (st == CVX_OK && (least != -most || text == NULL)) {
        st = tell(c, own, text);
    }
    free(text);
    return st;
}
