/* A stand-in for Lambda's endpoint, fast enough that what a client costs is what gets measured.
 *
 * Answers every request with the same body behind the headers of a synchronous Invoke; looks at
 * nothing of the request but where it ends. HTTP/1.1 with keep-alive over TLS 1.3 or plain TCP, on
 * 127.0.0.1 only; one thread, one epoll. Not handled, the connection is closed: chunked requests,
 * pipelining, Expect.
 *
 *     stub (--cert FILE --key FILE | --plain) [--port N] [--delay-ms MIN MAX]
 *          [--answer-bytes N | --answer-file FILE]
 *
 * Prints its port. Each byte on stdin is answered by a line on stdout: CPU time in microseconds,
 * requests and connections so far. Ends with its parent: at the end of stdin or by PDEATHSIG.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
    HEAD_BYTES = 16384,  /* of a request; with a session token it has some 2 KB */
    START_BYTES = 8192,  /* of an answer: head and a first part of the body, one TLS record */
    EVENTS = 512,
    WHEEL_MS = 8192, /* one slot per millisecond; the longest delay fits in one turn */
};

#define ID "5b1d0f6e-8a3c-4f27-9e61-%012llx" /* of a request */

enum state { HANDSHAKE, HEAD, BODY, DELAYED, ANSWERING };

struct connection {
    int fd;
    SSL *ssl; /* NULL: plain */
    enum state state;
    uint32_t events; /* what epoll watches */
    int wants_log;   /* the end of it, as Lambda sends it to those who ask */
    size_t head_bytes, body_left;
    size_t start_bytes, sent;              /* of start and body together */
    struct connection *previous, *next;    /* others of the same slot of the wheel */
    struct connection **slot;
    char head[HEAD_BYTES + 1], start[START_BYTES];
};

static struct {
    int epoll, listener;
    SSL_CTX *tls;
    const char *body;
    size_t body_bytes;
    unsigned delay_min_ms, delay_max_ms;
    uint64_t random; /* state of xorshift64 */
    struct connection *wheel[WHEEL_MS];
    uint64_t wheel_ms; /* all slots up to here are empty */
    unsigned delayed;
    unsigned long long requests, connections;
} server;

static char scratch[1 << 17]; /* bodies of requests go here, and nowhere else */

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static uint64_t next_random(void) {
    server.random ^= server.random << 13;
    server.random ^= server.random >> 7;
    return server.random ^= server.random << 17;
}

static void watch(struct connection *c, uint32_t events) {
    if (c->events == events) return;
    c->events = events;
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(server.epoll, EPOLL_CTL_MOD, c->fd, &event);
}

static void delay(struct connection *c) {
    uint64_t span = server.delay_max_ms - server.delay_min_ms + 1;
    uint64_t now = now_ms(), due = now + server.delay_min_ms + next_random() % span;
    if (!server.delayed++) server.wheel_ms = now;
    if (due <= server.wheel_ms) due = server.wheel_ms + 1;
    c->state = DELAYED;
    c->slot = &server.wheel[due % WHEEL_MS];
    c->previous = NULL;
    c->next = *c->slot;
    if (c->next) c->next->previous = c;
    *c->slot = c;
}

static void undelay(struct connection *c) {
    if (c->previous) c->previous->next = c->next;
    else *c->slot = c->next;
    if (c->next) c->next->previous = c->previous;
    server.delayed--;
}

static void disconnect(struct connection *c) {
    if (c->state == DELAYED) undelay(c);
    SSL_free(c->ssl);
    close(c->fd);
    free(c);
}

/* Bytes in and out: more than 0, 0 to wait for epoll, -1 when the connection is over. */
static long tls_result(struct connection *c, int result) {
    if (result > 0) return result;
    int error = SSL_get_error(c->ssl, result);
    if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) return -1;
    watch(c, error == SSL_ERROR_WANT_READ ? EPOLLIN : EPOLLOUT);
    return 0;
}

static long receive(struct connection *c, void *into, size_t bytes) {
    if (c->ssl) {
        ERR_clear_error();
        return tls_result(c, SSL_read(c->ssl, into, (int)bytes));
    }
    ssize_t result = read(c->fd, into, bytes);
    if (result > 0) return result;
    return result < 0 && errno == EAGAIN ? 0 : -1;
}

static long transmit(struct connection *c, const void *from, size_t bytes) {
    if (c->ssl) {
        ERR_clear_error();
        return tls_result(c, SSL_write(c->ssl, from, bytes > 1 << 30 ? 1 << 30 : (int)bytes));
    }
    ssize_t result = send(c->fd, from, bytes, MSG_NOSIGNAL);
    if (result > 0) return result;
    if (errno != EAGAIN) return -1;
    watch(c, EPOLLOUT);
    return 0;
}

static void write_start(struct connection *c) {
    static char date[64];
    static time_t date_s;
    time_t now_s = time(NULL);
    if (now_s != date_s) {
        date_s = now_s;
        strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&now_s));
    }
    unsigned long long id = ++server.requests;
    char log[1024] = "";
    if (c->wants_log) {
        char text[512], base64[704];
        int size = snprintf(
            text, sizeof text,
            "START RequestId: " ID " Version: $LATEST\nEND RequestId: " ID "\n"
            "REPORT RequestId: " ID "\tDuration: 12.34 ms\tBilled Duration: 13 ms\t"
            "Memory Size: 1769 MB\tMax Memory Used: 90 MB\t\n",
            id, id, id);
        EVP_EncodeBlock((unsigned char *)base64, (unsigned char *)text, size);
        snprintf(log, sizeof log, "X-Amz-Log-Result: %s\r\n", base64);
    }
    int bytes = snprintf(
        c->start, START_BYTES,
        "HTTP/1.1 200 OK\r\n"
        "Date: %s\r\n"
        "Content-Type: application/json\r\n"
        "Content-Length: %zu\r\n"
        "Connection: keep-alive\r\n"
        "x-amzn-RequestId: " ID "\r\n"
        "X-Amz-Executed-Version: $LATEST\r\n"
        "x-amzn-Remapped-Content-Length: 0\r\n"
        "X-Amzn-Trace-Id: Root=1-%08llx-7c1e9d3b%016llx;Parent=4d0b62f19ac8e357;Sampled=0\r\n"
        "%s\r\n",
        date, server.body_bytes, id, (unsigned long long)now_s, id, log);
    size_t fits = START_BYTES - (size_t)bytes;
    size_t first = server.body_bytes < fits ? server.body_bytes : fits;
    memcpy(c->start + bytes, server.body, first);
    c->start_bytes = (size_t)bytes + first;
    c->body_left = server.body_bytes - first;
    c->sent = 0;
}

/* Sends what is left; 0 also when all is sent and the next request may come. */
static int answer(struct connection *c) {
    c->state = ANSWERING;
    for (;;) {
        const char *from = c->start + c->sent;
        size_t left = c->start_bytes - c->sent;
        if (c->sent >= c->start_bytes) {
            left = c->body_left;
            from = server.body + server.body_bytes - left;
        }
        if (!left) break;
        long bytes = transmit(c, from, left);
        if (bytes <= 0) return (int)bytes;
        if (c->sent < c->start_bytes) c->sent += (size_t)bytes;
        else c->body_left -= (size_t)bytes;
    }
    c->state = HEAD;
    c->head_bytes = 0;
    watch(c, EPOLLIN);
    return 0;
}

static int finish_request(struct connection *c) {
    if (server.delay_max_ms) {
        delay(c);
        return 0;
    }
    write_start(c);
    return answer(c);
}

static void answer_due(void) {
    uint64_t now = now_ms();
    while (server.delayed && server.wheel_ms < now) {
        struct connection **slot = &server.wheel[++server.wheel_ms % WHEEL_MS];
        while (*slot) {
            struct connection *c = *slot;
            undelay(c);
            write_start(c);
            if (answer(c) < 0) disconnect(c);
        }
    }
}

/* Returns -1 when the head is one that is not handled. */
static int begin_body(struct connection *c, const char *end) {
    const char *length = strcasestr(c->head, "\r\nContent-Length:");
    size_t bytes = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
    size_t here = c->head_bytes - (size_t)(end + 4 - c->head);
    if (here > bytes || strcasestr(c->head, "\r\nTransfer-Encoding:")) return -1;
    const char *log = strcasestr(c->head, "\r\nX-Amz-Log-Type: Tail\r\n");
    c->wants_log = log && log < end;
    c->state = BODY;
    c->body_left = bytes - here;
    return 0;
}

static int read_head(struct connection *c) {
    long bytes = receive(c, c->head + c->head_bytes, HEAD_BYTES - c->head_bytes);
    if (bytes <= 0) return (int)bytes;
    size_t from = c->head_bytes < 3 ? 0 : c->head_bytes - 3; /* the end may lie across two reads */
    c->head_bytes += (size_t)bytes;
    c->head[c->head_bytes] = '\0';
    const char *end = memmem(c->head + from, c->head_bytes - from, "\r\n\r\n", 4);
    if (!end) return c->head_bytes < HEAD_BYTES ? 0 : -1;
    if (begin_body(c, end) < 0) return -1;
    return c->body_left ? 0 : finish_request(c);
}

static int read_body(struct connection *c) {
    long bytes = receive(c, scratch, c->body_left < sizeof scratch ? c->body_left : sizeof scratch);
    if (bytes <= 0) return (int)bytes;
    c->body_left -= (size_t)bytes;
    return c->body_left ? 0 : finish_request(c);
}

static int shake_hands(struct connection *c) {
    ERR_clear_error();
    long result = tls_result(c, SSL_accept(c->ssl));
    if (result <= 0) return (int)result;
    c->state = HEAD;
    watch(c, EPOLLIN);
    return 0;
}

static int step(struct connection *c) {
    switch (c->state) {
    case HANDSHAKE: return shake_hands(c);
    case HEAD: return read_head(c);
    case BODY: return read_body(c);
    case DELAYED: return receive(c, scratch, 1) ? -1 : 0; /* pipelined, or gone */
    case ANSWERING: return answer(c);
    }
    return -1;
}

static void serve(struct connection *c) {
    do {
        if (step(c) < 0) {
            disconnect(c);
            return;
        }
    } while (c->ssl && SSL_pending(c->ssl) && c->state != ANSWERING); /* epoll can't see these */
}

static void accept_all(void) {
    int fd;
    while ((fd = accept4(server.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *c = malloc(sizeof *c);
        if (!c) fail("out of memory");
        memset(c, 0, offsetof(struct connection, head));
        c->fd = fd;
        c->state = server.tls ? HANDSHAKE : HEAD;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        if (server.tls) {
            c->ssl = SSL_new(server.tls);
            SSL_set_fd(c->ssl, fd);
        }
        c->events = EPOLLIN;
        struct epoll_event event = {.events = c->events, .data.ptr = c};
        epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &event);
        server.connections++;
    }
    if (errno == EMFILE) fail("out of file descriptors: raise `ulimit -n`");
}

static void tell_usage(void) {
    char bytes[64];
    ssize_t asked = read(STDIN_FILENO, bytes, sizeof bytes);
    if (asked <= 0) exit(0);
    struct timespec cpu;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    for (; asked > 0; asked--)
        printf("%lld %llu %llu\n", (long long)cpu.tv_sec * 1000000 + cpu.tv_nsec / 1000,
               server.requests, server.connections);
    fflush(stdout);
}

static void load_tls(const char *certificate, const char *key) {
    server.tls = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_min_proto_version(server.tls, TLS1_3_VERSION);
    SSL_CTX_set_mode(server.tls, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                     SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    if (SSL_CTX_use_certificate_chain_file(server.tls, certificate) != 1 ||
        SSL_CTX_use_PrivateKey_file(server.tls, key, SSL_FILETYPE_PEM) != 1)
        fail("cannot use certificate %s with key %s", certificate, key);
}

static void load_body(const char *path, size_t bytes) {
    FILE *file = path ? fopen(path, "rb") : NULL;
    if (path && !file) fail("cannot read %s", path);
    if (file) {
        fseek(file, 0, SEEK_END);
        bytes = (size_t)ftell(file);
        rewind(file);
    }
    char *body = malloc(bytes + 1);
    if (!body) fail("out of memory");
    memset(body, ' ', bytes);
    if (file && fread(body, 1, bytes, file) != bytes) fail("cannot read %s", path);
    if (!file && bytes >= 2) memcpy(body, "{}", 2); /* JSON may end in blanks */
    server.body = body;
    server.body_bytes = bytes;
}

static void listen_on(unsigned port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    server.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(server.listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(server.listener, (struct sockaddr *)&address, size) || listen(server.listener, 4096) ||
        getsockname(server.listener, (struct sockaddr *)&address, &size))
        fail("cannot listen on 127.0.0.1:%u: %s", port, strerror(errno));
    printf("%u\n", ntohs(address.sin_port));
    fflush(stdout);
}

static void run(void) {
    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[EVENTS] = {{.events = EPOLLIN, .data.ptr = &server.listener}};
    epoll_ctl(server.epoll, EPOLL_CTL_ADD, server.listener, &events[0]);
    events[0].data.ptr = scratch; /* any address that is no connection's: stdin */
    epoll_ctl(server.epoll, EPOLL_CTL_ADD, STDIN_FILENO, &events[0]);
    for (;;) {
        int ready = epoll_wait(server.epoll, events, EVENTS, server.delayed ? 1 : -1);
        for (int i = 0; i < ready; i++) {
            void *who = events[i].data.ptr;
            if (who == &server.listener) accept_all();
            else if (who == scratch) tell_usage();
            else serve(who);
        }
        if (server.delayed) answer_due();
    }
}

int main(int count, char **arguments) {
    static const struct option options[] = {
        {"port", 1, 0, 'p'},     {"cert", 1, 0, 'c'}, {"key", 1, 0, 'k'},
        {"plain", 0, 0, 'P'},    {"answer-bytes", 1, 0, 'n'},
        {"delay-ms", 1, 0, 'd'}, {"answer-file", 1, 0, 'f'}, {0}};
    const char *certificate = NULL, *key = NULL, *body = NULL;
    size_t body_bytes = 200;
    unsigned port = 0;
    int is_plain = 0, option;
    server.random = 1; /* the seed: each run has the same delays */
    while ((option = getopt_long(count, arguments, "", options, NULL)) != -1) switch (option) {
        case 'p': port = (unsigned)atoi(optarg); break;
        case 'c': certificate = optarg; break;
        case 'k': key = optarg; break;
        case 'P': is_plain = 1; break;
        case 'n': body_bytes = strtoul(optarg, NULL, 10); break;
        case 'f': body = optarg; break;
        case 'd':
            if (optind >= count) fail("--delay-ms takes MIN and MAX");
            server.delay_min_ms = (unsigned)atoi(optarg);
            server.delay_max_ms = (unsigned)atoi(arguments[optind++]);
            break;
        default: return 2;
        }
    if (!is_plain && !(certificate && key)) fail("give --cert and --key, or --plain");
    if (server.delay_min_ms > server.delay_max_ms || server.delay_max_ms >= WHEEL_MS)
        fail("--delay-ms takes MIN <= MAX < %d", WHEEL_MS);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (!is_plain) load_tls(certificate, key);
    load_body(body, body_bytes);
    listen_on(port);
    run();
}
