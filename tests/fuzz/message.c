/* Any bytes as each message of proto/: what can be read is written again and read as the same, and what is made of a job of such
 * messages is JSON. The first byte says which message. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ProtobufCMessageDescriptor *const kinds[] = {
    &cvx__job_spec__descriptor,    &cvx__assignment__descriptor,   &cvx__progress__descriptor,
    &cvx__pool_status__descriptor, &cvx__frame_scores__descriptor, &cvx__result__descriptor};
#define KINDS (sizeof kinds / sizeof *kinds)

/* Unknown fields must outlive it, too. */
static void round_trip(const ProtobufCMessageDescriptor *kind, const ProtobufCMessage *m)
{
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *once = malloc(n + 1), *twice = malloc(n + 1);

    if (once == NULL || twice == NULL || protobuf_c_message_pack(m, once) != n) {
        abort();
    }
    ProtobufCMessage *again = protobuf_c_message_unpack(kind, NULL, n, once);
    /* protobuf-c reads an unknown field of number 0 where its tag is longer than it need be, and not as it then writes it */
    if (again == NULL ? m->n_unknown_fields == 0
                      : protobuf_c_message_get_packed_size(again) != n ||
                            again->n_unknown_fields != m->n_unknown_fields) {
        abort();
    }
    if (again != NULL) {
        protobuf_c_message_pack(again, twice);
        if (memcmp(once, twice, n) != 0) {
            abort();
        }
        protobuf_c_message_free_unpacked(again, NULL);
    }
    free(once);
    free(twice);
}

/* The message as a part of a job. */
static void show(ProtobufCMessage *m)
{
    static const cvx_server server = {.model_name = "model"};
    Cvx__JobSpec plain = CVX__JOB_SPEC__INIT;
    cvx_job_view v = {
        .id = "video_", .state = "completed", .cause = "", .causes = "", .spec = &plain};

    v.spec = m->descriptor == kinds[0] ? (Cvx__JobSpec *)m : v.spec;
    v.progress = m->descriptor == kinds[2] ? (Cvx__Progress *)m : NULL;
    v.scores = m->descriptor == kinds[4] ? (Cvx__FrameScores *)m : NULL;
    v.result = m->descriptor == kinds[5] ? (Cvx__Result *)m : NULL;
    json_t *j = cvx_video_json(&server, &v, -1);
    char *text = json_dumps(j, JSON_COMPACT);
    if (text == NULL || json_object_size(json_object_get(j, "cvx")) < 10) {
        abort();
    }
    free(text);
    json_decref(j);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) {
        return 0;
    }
    const ProtobufCMessageDescriptor *kind = kinds[data[0] % KINDS];
    ProtobufCMessage *m = protobuf_c_message_unpack(kind, NULL, size - 1, data + 1);
    if (m != NULL) {
        round_trip(kind, m);
        show(m);
        protobuf_c_message_free_unpacked(m, NULL);
    }
    return 0;
}
