/* The yardstick: an echo over RabbitMQ with librabbitmq, server and client in one program.

     echo serve -p PORT -q QUEUE [-w PREFETCH] [-x FEATURES]
     echo call  -p PORT -q QUEUE [-w WINDOW] [-s SECONDS] [-n CALLS] [-b BYTES] [-r RATE] [-u SECONDS] [-x FEATURES]

   Plain, it does what RabbitMQ's tutorial six does and nothing else: default exchange, one exclusive callback queue
   consumed without acks, correlation ids; the server prefetches, replies, then acknowledges, with one ack for all the
   requests it found in its buffer.

   With -x it adds what Warren adds, each by a letter: c confirms, m mandatory, t expiration, h deadline headers with
   message id and type, b the bounce (CC header, `warren` exchanges), 2 a channel of its own for publishing. With all
   of them it writes the messages that Warren writes, serves Warren's clients and calls Warren's servers: that tells
   what the broker takes for these messages, and what Warren takes.

   With the letter l a small request is answered with a large reply of -b bytes, which server and client are told: as a
   stream of large items does that is at most -w items ahead.

   The client prints "ready" once it is warm, waits for a line on standard input, measures, and prints one line of
   JSON. -w calls are under way at a time; with -r so many calls a second begin instead, in batches of a millisecond,
   and a call's latency counts from when it was due. */

#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>

#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>

#define HOST "127.0.0.1"
#define FRAME_MAX 131072
#define TICK 0.001        /* seconds between two batches of an open loop */
#define OPEN_SLOTS 65536  /* calls that an open loop may have under way */
#define TIMEOUT_MS 30000  /* the caller's patience, as -x tells it to the broker and the server */
#define TIMEOUT_TEXT "30000"

enum { CONSUMING = 1, PUBLISHING = 2 }; /* channels */

static struct {
  int port;
  const char *queue;
  int window;
  double seconds;
  long calls;
  int bytes;
  double rate;
  double warmup;
  const char *features; /* -x */
} options = {5672, "bench.c", 100, 1.0, 1000000, 0, 0.0, 0.3, ""};

static amqp_connection_state_t conn;
static amqp_channel_t publishing = CONSUMING;
static amqp_bytes_t service, reply_to;
static char *large; /* -b bytes */

static void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fputs("echo: ", stderr);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  exit(1);
}

static bool has(char feature) { return strchr(options.features, feature) != NULL; }

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu_seconds(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* --- connection -------------------------------------------------------------------------------------------------- */

static void check(const char *what) {
  amqp_rpc_reply_t reply = amqp_get_rpc_reply(conn);
  if (reply.reply_type == AMQP_RESPONSE_NORMAL) return;
  if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
    amqp_channel_close_t *close = reply.reply.decoded;
    die("%s: %.*s", what, (int)close->reply_text.len, (char *)close->reply_text.bytes);
  }
  die("%s: %s", what, amqp_error_string2(reply.library_error));
}

static void open_connection(void) {
  conn = amqp_new_connection();
  amqp_socket_t *socket = amqp_tcp_socket_new(conn); /* with TCP_NODELAY */
  if (socket == NULL || amqp_socket_open(socket, HOST, options.port) != 0)
    die("cannot connect to %s:%d", HOST, options.port);
  amqp_rpc_reply_t login = amqp_login(conn, "/", 0, FRAME_MAX, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest");
  if (login.reply_type != AMQP_RESPONSE_NORMAL) die("the broker refuses the login");
  amqp_channel_open(conn, CONSUMING);
  check("channel");
  service = amqp_cstring_bytes(options.queue);
}

static void declare_exchanges(void) {
  const char *names[] = {"warren", "warren.bounce"};
  for (int i = 0; i < 2; i++) {
    amqp_exchange_declare(conn, CONSUMING, amqp_cstring_bytes(names[i]), amqp_cstring_bytes("direct"), 0, 1, 0, 0,
                          amqp_empty_table);
    check(names[i]);
  }
}

/* --- messages ---------------------------------------------------------------------------------------------------- */

struct message {
  uint64_t tag;
  amqp_basic_properties_t properties; /* valid until the buffers are released */
  char *body;
  size_t size, capacity, missing;
};

static void begin_body(struct message *m, amqp_frame_t *frame) {
  m->properties = *(amqp_basic_properties_t *)frame->payload.properties.decoded;
  m->missing = (size_t)frame->payload.properties.body_size;
  m->size = 0;
  if (m->missing >= m->capacity) { /* one more, for a final NUL */
    m->capacity = m->missing + 1;
    m->body = realloc(m->body, m->capacity);
    if (m->body == NULL) die("out of memory");
  }
  m->body[m->missing] = 0;
}

static void take_method(struct message *m, amqp_frame_t *frame) {
  switch (frame->payload.method.id) {
    case AMQP_BASIC_DELIVER_METHOD:
      m->tag = ((amqp_basic_deliver_t *)frame->payload.method.decoded)->delivery_tag;
      break;
    case AMQP_BASIC_ACK_METHOD: /* a confirm: the reply is what ends a call */
      break;
    default:
      die("unexpected method 0x%08x", frame->payload.method.id);
  }
}

/* Read until a message is complete: true. With a timeout, false when there is none in that time. */
static bool next_message(struct message *m, struct timeval *timeout) {
  amqp_frame_t frame;
  for (;;) {
    int status = amqp_simple_wait_frame_noblock(conn, &frame, timeout);
    if (status == AMQP_STATUS_TIMEOUT) return false;
    if (status != AMQP_STATUS_OK) die("reading: %s", amqp_error_string2(status));
    if (frame.frame_type == AMQP_FRAME_METHOD) {
      take_method(m, &frame);
      if (frame.payload.method.id == AMQP_BASIC_ACK_METHOD) amqp_maybe_release_buffers(conn);
    } else if (frame.frame_type == AMQP_FRAME_HEADER) {
      begin_body(m, &frame);
    } else if (frame.frame_type == AMQP_FRAME_BODY) {
      memcpy(m->body + m->size, frame.payload.body_fragment.bytes, frame.payload.body_fragment.len);
      m->size += frame.payload.body_fragment.len;
      m->missing -= frame.payload.body_fragment.len;
    } else {
      continue;
    }
    if (frame.frame_type != AMQP_FRAME_METHOD && m->missing == 0) return true;
  }
}

static void publish(amqp_bytes_t exchange, amqp_bytes_t key, amqp_basic_properties_t *p, amqp_bytes_t body) {
  int status = amqp_basic_publish(conn, publishing, exchange, key, has('m'), 0, p, body);
  if (status != AMQP_STATUS_OK) die("publishing: %s", amqp_error_string2(status));
}

/* --- server ------------------------------------------------------------------------------------------------------ */

static void declare_service(void) {
  amqp_table_entry_t dead = {amqp_cstring_bytes("x-dead-letter-exchange"),
                             {AMQP_FIELD_KIND_UTF8, {.bytes = amqp_cstring_bytes("warren.bounce")}}};
  amqp_table_t arguments = {has('b'), &dead};
  if (has('b')) declare_exchanges();
  amqp_queue_declare(conn, CONSUMING, service, 0, 1, 0, !has('b'), arguments);
  check("queue");
  if (has('b')) {
    amqp_queue_bind(conn, CONSUMING, service, amqp_cstring_bytes("warren"), service, amqp_empty_table);
    check("bind");
  }
  amqp_basic_qos(conn, CONSUMING, 0, (uint16_t)options.window, 0);
  amqp_basic_consume(conn, CONSUMING, service, amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
  check("consume");
}

/* `[5]` is answered with `5`, as a method that returns its one argument does; bytes with the same bytes. */
static amqp_bytes_t echo(const struct message *m) {
  if (has('l')) return (amqp_bytes_t){(size_t)options.bytes, large};
  bool list = m->size >= 2 && m->body[0] == '[' && m->body[m->size - 1] == ']';
  return list ? (amqp_bytes_t){m->size - 2, m->body + 1} : (amqp_bytes_t){m->size, m->body};
}

static void serve(void) {
  struct message m = {0};
  int unacknowledged = 0;
  declare_service();
  printf("ready\n");
  fflush(stdout);
  for (;;) {
    next_message(&m, NULL);
    amqp_basic_properties_t reply = {._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG,
                                     .content_type = m.properties.content_type,
                                     .correlation_id = m.properties.correlation_id};
    publish(amqp_empty_bytes, m.properties.reply_to, &reply, echo(&m));
    amqp_maybe_release_buffers(conn);
    unacknowledged++;
    bool more = amqp_frames_enqueued(conn) || amqp_data_in_buffer(conn);
    if (!more || unacknowledged * 2 >= options.window) {
      amqp_basic_ack(conn, CONSUMING, m.tag, 1);
      unacknowledged = 0;
    }
  }
}

/* --- client ------------------------------------------------------------------------------------------------------ */

struct slot {
  double since; /* when its call was begun, or was due */
  long number;
  int next_free;
};

static struct slot *slots;
static int first_free, in_flight;
static long started;

static struct {
  double *latencies;
  long count, capacity, in_time;
  double end, last;
} result;

static void declare_replies(void) {
  if (has('b')) declare_exchanges();
  amqp_queue_declare_ok_t *queue =
      amqp_queue_declare(conn, CONSUMING, amqp_empty_bytes, 0, 0, 1, 0, amqp_empty_table);
  check("callback queue");
  reply_to = amqp_bytes_malloc_dup(queue->queue);
  if (has('b')) {
    amqp_queue_bind(conn, CONSUMING, reply_to, amqp_cstring_bytes("warren.bounce"), reply_to, amqp_empty_table);
    check("bind");
  }
  if (has('2')) {
    publishing = PUBLISHING;
    amqp_channel_open(conn, PUBLISHING);
    check("channel");
  }
  if (has('c')) {
    amqp_confirm_select(conn, publishing);
    check("confirms");
  }
  amqp_basic_consume(conn, CONSUMING, reply_to, amqp_empty_bytes, 0, 1, 1, amqp_empty_table);
  check("consume");
}

static void add_headers(amqp_basic_properties_t *p) {
  static amqp_table_entry_t entries[4];
  static amqp_field_value_t bounce_to;
  int count = 0;
  if (has('h')) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    int64_t deadline = (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000 + TIMEOUT_MS;
    entries[0] = (amqp_table_entry_t){amqp_cstring_bytes("rpc-v"), {AMQP_FIELD_KIND_I32, {.i32 = 1}}};
    entries[1] =
        (amqp_table_entry_t){amqp_cstring_bytes("rpc-timeout-ms"), {AMQP_FIELD_KIND_I32, {.i32 = TIMEOUT_MS}}};
    entries[2] = (amqp_table_entry_t){amqp_cstring_bytes("rpc-deadline"), {AMQP_FIELD_KIND_I64, {.i64 = deadline}}};
    count = 3;
    p->_flags |= AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG;
    p->delivery_mode = AMQP_DELIVERY_NONPERSISTENT;
    p->message_id = p->correlation_id;
    p->type = amqp_cstring_bytes("echo");
  }
  if (has('b')) {
    bounce_to = (amqp_field_value_t){AMQP_FIELD_KIND_UTF8, {.bytes = reply_to}};
    entries[count++] =
        (amqp_table_entry_t){amqp_cstring_bytes("CC"), {AMQP_FIELD_KIND_ARRAY, {.array = {1, &bounce_to}}}};
  }
  if (count) p->_flags |= AMQP_BASIC_HEADERS_FLAG;
  p->headers = (amqp_table_t){count, entries};
}

static void begin_call(double since) {
  char id[32], small[32];
  if (first_free < 0) die("%d calls are under way: the rate is too high", in_flight);
  int index = first_free;
  struct slot *slot = &slots[index];
  first_free = slot->next_free;
  slot->number = started++;
  slot->since = since;
  snprintf(id, sizeof id, "%d.%ld", index, slot->number);
  amqp_basic_properties_t p = {
      ._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG | AMQP_BASIC_REPLY_TO_FLAG,
      .content_type = amqp_cstring_bytes(options.bytes ? "application/octet-stream" : "application/json"),
      .correlation_id = amqp_cstring_bytes(id),
      .reply_to = reply_to};
  if (has('t')) {
    p._flags |= AMQP_BASIC_EXPIRATION_FLAG;
    p.expiration = amqp_cstring_bytes(TIMEOUT_TEXT);
  }
  add_headers(&p);
  amqp_bytes_t body = {(size_t)options.bytes, large};
  if (!options.bytes || has('l')) {
    snprintf(small, sizeof small, "[%ld]", slot->number);
    body = amqp_cstring_bytes(small);
  }
  publish(amqp_cstring_bytes(has('b') ? "warren" : ""), service, &p, body);
  in_flight++;
}

/* The call that a reply belongs to ends; its slot becomes free. */
static void end_call(const struct message *m) {
  char id[32], *rest;
  size_t size = m->properties.correlation_id.len;
  if (size >= sizeof id) die("a foreign correlation id");
  memcpy(id, m->properties.correlation_id.bytes, size);
  id[size] = 0;
  long index = strtol(id, &rest, 10);
  long number = strtol(rest + 1, NULL, 10);
  struct slot *slot = &slots[index];
  if (slot->number != number) die("a reply to an unknown call: %s", id);
  if (options.bytes ? m->size != (size_t)options.bytes : strtol(m->body, NULL, 10) != number) die("a wrong answer");
  slot->number = -1;
  slot->next_free = first_free;
  first_free = (int)index;
  in_flight--;
  double done = now();
  if (result.count == result.capacity) {
    result.capacity = result.capacity ? result.capacity * 2 : 65536;
    result.latencies = realloc(result.latencies, (size_t)result.capacity * sizeof(double));
    if (result.latencies == NULL) die("out of memory");
  }
  result.latencies[result.count++] = done - slot->since;
  result.in_time += done <= result.end;
  result.last = done;
}

static void free_slots(int count) {
  slots = calloc((size_t)count, sizeof *slots);
  if (slots == NULL) die("out of memory");
  for (int i = 0; i < count; i++) {
    slots[i].number = -1;
    slots[i].next_free = i + 1 < count ? i + 1 : -1;
  }
  first_free = 0;
}

static void closed_loop(double seconds, long calls) {
  struct message m = {0};
  long last = started + calls;
  result.count = result.in_time = 0;
  result.end = now() + seconds;
  for (int i = 0; i < options.window && started < last; i++) begin_call(now());
  while (in_flight) {
    next_message(&m, NULL);
    end_call(&m);
    amqp_maybe_release_buffers(conn);
    double time = now();
    if (time < result.end && started < last) begin_call(time);
  }
  free(m.body);
}

static void wait_readable(double until) {
  double left = until - now();
  if (left <= 0) return;
  struct pollfd fd = {amqp_get_sockfd(conn), POLLIN, 0};
  struct timespec t = {(time_t)left, (long)((left - (double)(time_t)left) * 1e9)};
  if (ppoll(&fd, 1, &t, NULL) < 0 && errno != EINTR) die("poll: %s", strerror(errno));
}

static void open_loop(double seconds, double rate) {
  struct message m = {0};
  struct timeval none = {0, 0};
  double begin = now();
  long ticks = (long)(seconds / TICK), tick = 0, first = started;
  result.count = result.in_time = 0;
  result.end = begin + seconds;
  while (tick < ticks || in_flight) {
    for (; tick < ticks && begin + (double)tick * TICK <= now(); tick++)
      while (started - first < (long)(rate * TICK * (double)(tick + 1))) begin_call(begin + (double)tick * TICK);
    while (next_message(&m, &none)) {
      end_call(&m);
      amqp_maybe_release_buffers(conn);
    }
    wait_readable(tick < ticks ? begin + (double)tick * TICK : now() + 1.0);
  }
  free(m.body);
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double percentile_ms(double share) {
  long rank = (long)(share * (double)result.count + 0.999999) - 1;
  return result.latencies[rank < 0 ? 0 : rank] * 1e3;
}

static void report(double begin, double cpu) {
  if (!result.count) die("no call ended");
  double until = result.last < result.end ? result.last : result.end;
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  qsort(result.latencies, (size_t)result.count, sizeof(double), ascending);
  printf("{\"calls\": %ld, \"seconds\": %.6f, \"rate\": %.3f, \"p50_ms\": %.6f, \"p90_ms\": %.6f, \"p99_ms\": %.6f, "
         "\"max_ms\": %.6f, \"cpu_s\": %.6f, \"max_rss_kib\": %ld}\n",
         result.count, until - begin, (double)result.in_time / (until - begin), percentile_ms(0.5),
         percentile_ms(0.9), percentile_ms(0.99), percentile_ms(1.0), cpu, usage.ru_maxrss);
}

static void call(void) {
  char line[64];
  declare_replies();
  free_slots(options.rate > 0 ? OPEN_SLOTS : options.window);
  closed_loop(options.warmup, options.calls);
  printf("ready\n");
  fflush(stdout);
  if (fgets(line, sizeof line, stdin) == NULL) return;
  double cpu = cpu_seconds(), begin = now();
  if (options.rate > 0)
    open_loop(options.seconds, options.rate);
  else
    closed_loop(options.seconds, options.calls);
  report(begin, cpu_seconds() - cpu);
}

int main(int argc, char **argv) {
  int option;
  if (argc > 1 && strcmp(argv[1], "version") == 0) {
    printf("librabbitmq %s\n", amqp_version());
    return 0;
  }
  while ((option = getopt(argc, argv, "p:q:w:s:n:b:r:u:x:")) != -1) switch (option) {
      case 'p': options.port = atoi(optarg); break;
      case 'q': options.queue = optarg; break;
      case 'w': options.window = atoi(optarg); break;
      case 's': options.seconds = atof(optarg); break;
      case 'n': options.calls = atol(optarg); break;
      case 'b': options.bytes = atoi(optarg); break;
      case 'r': options.rate = atof(optarg); break;
      case 'u': options.warmup = atof(optarg); break;
      case 'x': options.features = optarg; break;
      default: return 2;
    }
  const char *verb = optind < argc ? argv[optind] : "";
  if (options.bytes) {
    large = malloc((size_t)options.bytes);
    if (large == NULL) die("out of memory");
    memset(large, 'x', (size_t)options.bytes);
  }
  open_connection();
  if (strcmp(verb, "serve") == 0)
    serve();
  else if (strcmp(verb, "call") == 0)
    call();
  else
    die("say serve or call");
  return 0;
}
