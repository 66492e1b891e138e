#include "model/text/spm_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/text/text.h"

#define FILE_MAX ((size_t)256 << 20)
#define UNIGRAM 1 /* TrainerSpec.ModelType */

/* A run of protobuf bytes being read. */
typedef struct wire {
    const unsigned char *p, *end;
} wire;

/* One field: varint and fixed ones in `value`, length-delimited ones in `body`.
 */
typedef struct field {
    uint64_t number, value;
    enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 } type;
    wire body;
} field;

static bool read_varint(wire *w, uint64_t *out)
{
    uint64_t v = 0;

    for (int shift = 0; shift < 64 && w->p < w->end; shift += 7) {
        unsigned char b = *w->p++;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80) {
            *out = v;
            return true;
        }
    }
    return false;
}

static bool read_fixed(wire *w, size_t bytes, uint64_t *out)
{
    if ((size_t)(w->end - w->p) < bytes) {
        return false;
    }
    *out = 0;
    for (size_t i = 0; i < bytes; i++) {
        *out |= (uint64_t)*w->p++ << (8 * i);
    }
    return true;
}

static bool read_field(wire *w, field *f)
{
    uint64_t tag, len;

    if (!read_varint(w, &tag) || tag >> 3 == 0) {
        return false;
    }
    f->number = tag >> 3;
    switch (tag & 7) {
    case VARINT: f->type = VARINT; return read_varint(w, &f->value);
    case FIXED64: f->type = FIXED64; return read_fixed(w, 8, &f->value);
    case FIXED32: f->type = FIXED32; return read_fixed(w, 4, &f->value);
    case BYTES:
        f->type = BYTES;
        if (!read_varint(w, &len) || len > (uint64_t)(w->end - w->p)) {
            return false;
        }
        f->body = (wire){w->p, w->p + len};
        w->p += len;
        return true;
    default: return false;
    }
}

/* SentencePiece: piece = 1, score = 2, type = 3. */
static bool read_piece(wire w, cvx_spm_piece *out)
{
    cvx_spm_piece p = {.kind = CVX_SPM_NORMAL};
    field f;

    while (w.p < w.end) {
        if (!read_field(&w, &f)) {
            return false;
        }
        if (f.number == 1 && f.type == BYTES) {
            p.text = (const char *)f.body.p;
            p.len = (size_t)(f.body.end - f.body.p);
        } else if (f.number == 2 && f.type == FIXED32) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&p.score, &bits, sizeof p.score);
        } else if (f.number == 3 && f.type == VARINT) {
            p.kind = f.value <= CVX_SPM_BYTE ? (int64_t)f.value : 0;
        }
    }
    *out = p;
    return true;
}

/* TrainerSpec: model_type = 3. */
static bool read_trainer(wire w, uint64_t *model_type)
{
    field f;

    while (w.p < w.end) {
        if (!read_field(&w, &f)) {
            return false;
        }
        if (f.number == 3 && f.type == VARINT) {
            *model_type = f.value;
        }
    }
    return true;
}

/* NormalizerSpec: precompiled_charsmap = 2. */
static bool read_normalizer(wire w, cvx_spm_model *m)
{
    field f;

    while (w.p < w.end) {
        if (!read_field(&w, &f)) {
            return false;
        }
        if (f.number == 2 && f.type == BYTES) {
            m->charsmap = f.body.p;
            m->charsmap_len = (size_t)(f.body.end - f.body.p);
        }
    }
    return true;
}

/* ModelProto: pieces = 1, trainer_spec = 2, normalizer_spec = 3. Called twice:
 * first to count. */
static bool read_model(wire w, cvx_spm_model *m, uint64_t *model_type)
{
    field f;

    m->n = 0;
    while (w.p < w.end) {
        bool ok = read_field(&w, &f);
        if (ok && f.number == 1 && f.type == BYTES) {
            ok = m->piece == NULL || read_piece(f.body, &m->piece[m->n]);
            m->n++;
        } else if (ok && f.number == 2 && f.type == BYTES) {
            ok = read_trainer(f.body, model_type);
        } else if (ok && f.number == 3 && f.type == BYTES) {
            ok = read_normalizer(f.body, m);
        }
        if (!ok) {
            return false;
        }
    }
    return true;
}

static cvx_status check_piece(const cvx_spm_piece *p, int64_t i, const char *what)
{
    if (p->len == 0 || p->len > 1024 || memchr(p->text, 0, p->len) != NULL) {
        return cvx_fail(CVX_EFORMAT,
                        "%s: piece %lld is empty, longer than 1024 bytes or holds a NUL", what,
                        (long long)i);
    }
    for (size_t j = 0; j < p->len;) {
        if (cvx_next_char(p->text, p->len, &j) < 0) {
            return cvx_fail(CVX_EFORMAT, "%s: piece %lld is not UTF-8", what, (long long)i);
        }
    }
    if (!isfinite(p->score)) {
        return cvx_fail(CVX_EFORMAT, "%s: the score of piece %lld is not a finite number", what,
                        (long long)i);
    }
    return CVX_OK;
}

cvx_status cvx_spm_model_parse(cvx_spm_model *out, const char *bytes, size_t len, const char *what)
{
    wire all = {(const unsigned char *)bytes, (const unsigned char *)bytes + len};
    cvx_spm_model m = {0};
    uint64_t model_type = UNIGRAM;
    cvx_status st = CVX_OK;

    if (!read_model(all, &m, &model_type) || m.n == 0 || m.n > INT32_MAX) {
        return cvx_fail(CVX_EFORMAT, "%s: not a sentencepiece model, or cut short (%zu bytes)",
                        what, len);
    }
    if (model_type != UNIGRAM) {
        return cvx_fail(CVX_EUNSUPPORTED,
                        "%s: sentencepiece model type %llu; T5 needs type 1 (unigram)", what,
                        (unsigned long long)model_type);
    }
    m.piece = calloc((size_t)m.n, sizeof *m.piece);
    if (m.piece == NULL) {
        return cvx_fail(CVX_ENOMEM, "%s: no memory for %lld pieces", what, (long long)m.n);
    }
    if (!read_model(all, &m, &model_type)) {
        CVX_TRY(st, cvx_fail(CVX_EFORMAT, "%s: a damaged piece", what), done);
    }
    for (int64_t i = 0; i < m.n; i++) {
        CVX_TRY(st, check_piece(&m.piece[i], i, what), done);
    }
    *out = m;
    m.piece = NULL;
done:
    free(m.piece);
    return st;
}

cvx_status cvx_spm_model_read(cvx_spm_model *out, const char *path)
{
    char *bytes = NULL;
    size_t len = 0;

    CVX_RETURN_IF(cvx_file_read(&bytes, &len, path, FILE_MAX));
    cvx_status st = cvx_spm_model_parse(out, bytes, len, path);
    if (st == CVX_OK) {
        out->bytes = bytes;
    } else {
        free(bytes);
    }
    return st;
}

void cvx_spm_model_close(cvx_spm_model *m)
{
    free(m->piece);
    free(m->bytes);
    *m = (cvx_spm_model){0};
}
