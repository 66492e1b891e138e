/* Inside the coordinator: what the parts of the HTTP server share. cvx_http_start is in server.h. */
#ifndef CVX_COORDINATOR_HTTP_H
#define CVX_COORDINATOR_HTTP_H

#include <microhttpd.h>
#include <sys/socket.h>

#include "coordinator/data_url.h"
#include "coordinator/guard.h"
#include "coordinator/server.h"

/* A host's numeric or named address. CVX_EINVAL: there is none. */
cvx_status cvx_http_address(struct sockaddr_storage *out, const char *host, int port) CVX_CHECK;

/* A header's value; NULL: not there. */
const char *cvx_http_header(struct MHD_Connection *c, const char *name);

/* A request's body while it comes in. What is wrong with it becomes the answer, and the rest is read and dropped. */
typedef struct cvx_body {
    const cvx_server *s;
    cvx_http_answer *answer;
    bool refused, json; /* refused: the answer is known */
    bool wanted;        /* else it is read and dropped, whatever it is */
    char *text;
    size_t len;
    int64_t came, counted; /* bytes; those that count among what all requests hold */
    struct MHD_PostProcessor *form;
    json_t *fields; /* of JSON or of the form, once all is there */
    char image[CVX_PATH_MAX];
    int image_fd;
    int64_t image_bytes;
    cvx_data_url url; /* the picture, where it comes as one */
} cvx_body;

/* wanted: its method has a use for a body. */
void cvx_body_begin(cvx_body *b, const cvx_server *s, cvx_http_answer *a, struct MHD_Connection *c,
                    bool wanted);
/* false: more came than anybody has patience for; the connection is to be closed. */
bool cvx_body_take(cvx_body *b, const char *data, size_t n) CVX_CHECK;
/* All of it is there. */
void cvx_body_end(cvx_body *b);
/* Its picture's file is somebody's (keep_image), or is deleted. */
void cvx_body_settle(cvx_body *b, bool keep_image);
/* Frees it, and deletes a picture that was not settled. */
void cvx_body_close(cvx_body *b);

/* Whether an Accept-Encoding (NULL: none) wants gzip. */
bool cvx_gzip_wanted(const char *accept);
/* The bytes as gzip; NULL where that is not worth it. *len is updated. Caller frees. */
char *cvx_gzip(const char *data, size_t *len);

/* Makes an answer's JSON or text the bytes that are sent, as gzip where Accept-Encoding (NULL: none) wants that. */
void cvx_answer_write(cvx_http_answer *a, const char *accept_encoding);
/* Queues the answer; what is not written yet is written. */
enum MHD_Result cvx_reply(struct MHD_Connection *c, cvx_http_answer *a);

#endif
