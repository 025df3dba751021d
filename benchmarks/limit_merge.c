/* The least that a merge on the CPU can cost: read ranges, average or copy them, write the result. Nothing is checked.

   limit_merge PLAN [THREADS]

   PLAN, one item a line (benchmarks/limit.py writes it):
     type F32|BF16
     file PATH                                  inputs, numbered from 0
     output PATH BYTES
     range OUT BYTES N (FILE OFFSET WEIGHT)*N   output bytes OUT ... OUT + BYTES; N = 1 is a copy

   Chunks of 256 KiB, taken in order by the threads: pread into small buffers, posix_fallocate and pwrite out. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 256 << 10, MOST_SOURCES = 3, MOST_FILES = 64 };

typedef struct {
    long out, bytes;
    int num, file[MOST_SOURCES];
    long at[MOST_SOURCES];
    float weight[MOST_SOURCES];
} Range;

static Range *chunks;
static long num_chunks, room;
static int files[MOST_FILES], num_files, output, is_bf16;
static atomic_long next_chunk;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void average_f32(float *a, const float *b, const float *c, const Range *r) {
    long count = r->bytes / 4;
    float p = r->weight[0], q = r->weight[1], s = r->weight[2];
    if (r->num == 2)
        for (long i = 0; i < count; i++) a[i] = p * a[i] + q * b[i];
    else
        for (long i = 0; i < count; i++) a[i] = p * a[i] + q * b[i] + s * c[i];
}

static float widen(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

/* Round to nearest, ties to even; NaN is not looked for. */
static uint16_t narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

static void average_bf16(uint16_t *a, const uint16_t *b, const uint16_t *c, const Range *r) {
    long count = r->bytes / 2;
    float p = r->weight[0], q = r->weight[1], s = r->weight[2];
    if (r->num == 2)
        for (long i = 0; i < count; i++) a[i] = narrow(p * widen(a[i]) + q * widen(b[i]));
    else
        for (long i = 0; i < count; i++) a[i] = narrow(p * widen(a[i]) + q * widen(b[i]) + s * widen(c[i]));
}

static void *work(void *unused) {
    (void)unused;
    char *buffer = aligned_alloc(4096, MOST_SOURCES * CHUNK);
    for (long number; (number = atomic_fetch_add(&next_chunk, 1)) < num_chunks;) {
        const Range *r = &chunks[number];
        for (int i = 0; i < r->num; i++)
            if (pread(files[r->file[i]], buffer + i * CHUNK, r->bytes, r->at[i]) != r->bytes) fail("read");
        void *a = buffer, *b = buffer + CHUNK, *c = buffer + 2 * CHUNK;
        if (r->num > 1 && is_bf16) average_bf16(a, b, c, r);
        else if (r->num > 1) average_f32(a, b, c, r);
        if (pwrite(output, buffer, r->bytes, r->out) != r->bytes) fail("write");
    }
    free(buffer);
    return NULL;
}

static void add_chunks(Range range) {
    for (long first = 0; first < range.bytes; first += CHUNK) {
        if (num_chunks == room) {
            room = room ? 2 * room : 4096;
            if (!(chunks = realloc(chunks, room * sizeof *chunks))) fail("memory");
        }
        Range *chunk = &chunks[num_chunks++];
        *chunk = range;
        chunk->out += first;
        chunk->bytes = range.bytes - first < CHUNK ? range.bytes - first : CHUNK;
        for (int i = 0; i < range.num; i++) chunk->at[i] += first;
    }
}

static void read_plan(const char *path) {
    static char line[8192], name[4096];
    FILE *plan = fopen(path, "r");
    if (!plan) fail(path);
    while (fgets(line, sizeof line, plan)) {
        long bytes;
        Range range = {0};
        int at = 0, used = 0;
        if (!strncmp(line, "type ", 5)) is_bf16 = !strncmp(line + 5, "BF16", 4);
        else if (sscanf(line, "file %4095[^\n]", name) == 1) {
            if (num_files == MOST_FILES || (files[num_files++] = open(name, O_RDONLY)) < 0) fail(name);
        } else if (sscanf(line, "output %4095s %ld", name, &bytes) == 2) {
            if ((output = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0666)) < 0) fail(name);
            if (posix_fallocate(output, 0, bytes)) fail("fallocate");
        } else if (sscanf(line, "range %ld %ld %d%n", &range.out, &range.bytes, &range.num, &at) == 3) {
            if (range.num < 1 || range.num > MOST_SOURCES) fail("range");
            for (int i = 0; i < range.num; i++, at += used)
                if (sscanf(line + at, " %d %ld %f%n", &range.file[i], &range.at[i], &range.weight[i], &used) != 3)
                    fail("range");
            add_chunks(range);
        }
    }
    fclose(plan);
}

int main(int argc, char **argv) {
    int threads = argc > 2 ? atoi(argv[2]) : 2;
    if (argc < 2 || threads < 1 || threads > 64) return 2;
    read_plan(argv[1]);
    pthread_t others[64];
    for (int i = 1; i < threads; i++)
        if (pthread_create(&others[i], NULL, work, NULL)) fail("thread");
    work(NULL);
    for (int i = 1; i < threads; i++) pthread_join(others[i], NULL);
    return 0;
}
