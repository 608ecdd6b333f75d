/* Avro's int and long, and bytes behind their length, as the modules in C read and write them; schemas/varint.py
 * tells the format. */

#pragma once

#include <stddef.h>
#include <stdint.h>

#define MOST_BYTES_OF_A_LONG 10

/* A long in its shortest form. 0 and a new *pos, or -1. */
static inline int
read_long(const uint8_t *data, ptrdiff_t end, ptrdiff_t *pos, int64_t *value)
{
    uint64_t zigzag = 0;
    ptrdiff_t p = *pos;
    for (int shift = 0; shift < 70; shift += 7) {
        if (p >= end)
            return -1;
        uint8_t byte = data[p++];
        if (shift == 63 && byte > 1)
            return -1; /* more than 64 bits */
        zigzag |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) {
            if (shift && !byte)
                return -1; /* longer than it need be */
            *pos = p;
            *value = (int64_t)(zigzag >> 1) ^ -(int64_t)(zigzag & 1);
            return 0;
        }
    }
    return -1;
}

/* A piece of the data; `start` is NULL where there is none. */
typedef struct {
    const uint8_t *start;
    ptrdiff_t size;
} Piece;

/* A length or a count. 0 and a new *pos, or -1. */
static inline int
read_count(const uint8_t *data, ptrdiff_t end, ptrdiff_t *pos, ptrdiff_t *value)
{
    int64_t number;
    if (read_long(data, end, pos, &number) < 0 || number < 0)
        return -1;
    *value = (ptrdiff_t)number;
    return 0;
}

/* A length and so many bytes. 0 and a new *pos, or -1. */
static inline int
view_bytes(const uint8_t *data, ptrdiff_t end, ptrdiff_t *pos, Piece *piece)
{
    ptrdiff_t length;
    if (read_count(data, end, pos, &length) < 0 || length > end - *pos)
        return -1;
    piece->start = data + *pos;
    piece->size = length;
    *pos += length;
    return 0;
}

/* Where the next byte goes. There is room for MOST_BYTES_OF_A_LONG. */
static inline uint8_t *
put_long(uint8_t *p, int64_t value)
{
    uint64_t zigzag = ((uint64_t)value << 1) ^ (uint64_t)(value >> 63);
    while (zigzag >= 0x80) {
        *p++ = (uint8_t)(zigzag | 0x80);
        zigzag >>= 7;
    }
    *p++ = (uint8_t)zigzag;
    return p;
}
