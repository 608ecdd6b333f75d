/* float4 and float8 to PostgreSQL's texts and back, where those have no exponent: zero, and from 0.0001 to 1e6 and
 * 1e15. schemas/pgfloat.py does the same for all of them, and tells what the text is: the shortest that lies
 * strictly between the midpoints to the neighbouring floats.
 *
 * A text is read by arithmetic that may err in the last bit, and is taken only if that number's text is the very
 * same.
 */

#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define MOST_BYTES_OF_A_FLOAT 32
#define EXACT_INTEGERS (1ULL << 53) /* up to here a double holds each */
#define FLOAT4_DECIMALS 12          /* nine digits from 0.0001 on */

/* Each exact in a double. */
static const double TEN_TO[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

/* ---- writing: NULL where it is left to the Python */

/* number / 10^decimals, without zeros at the fraction's end */
static inline char *
put_decimal(char *p, uint64_t number, int decimals)
{
    char text[MOST_BYTES_OF_A_FLOAT];
    char *digit = text + sizeof(text);
    for (; decimals && number % 10 == 0; decimals--)
        number /= 10;
    for (int i = 0; number || i <= decimals; i++) {
        if (i && i == decimals)
            *--digit = '.';
        *--digit = (char)('0' + number % 10);
        number /= 10;
    }
    size_t length = (size_t)(text + sizeof(text) - digit);
    memcpy(p, digit, length);
    return p + length;
}

static inline char *
put_float8(char *p, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    if (bits == 0)
        return put_decimal(p, 0, 0);
    double magnitude = value < 0 ? -value : value;
    if (!(magnitude >= 1e-4 && magnitude < 1e15))
        return NULL;
    if (value < 0)
        *p++ = '-';
    /* Two decimals of at most 15 digits are never the same float8: one that is this float is the shortest. */
    int decimals = 0;
    while (magnitude * TEN_TO[decimals + 1] < 1e15)
        decimals++;
    uint64_t number = (uint64_t)(magnitude * TEN_TO[decimals] + 0.5);
    if ((double)number / TEN_TO[decimals] == magnitude)
        return put_decimal(p, number, decimals);
    /* Below 2^53 a midpoint has more digits than the float, so the shortest that reads back is the text. */
    char *text = PyOS_double_to_string(magnitude, 'r', 0, 0, NULL);
    if (text == NULL) {
        PyErr_Clear();
        return NULL;
    }
    size_t length = strlen(text);
    memcpy(p, text, length);
    PyMem_Free(text);
    return p + length;
}

static inline double
float4_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* Everything is exact: a midpoint has 25 bits, 10^12 has 28 before its zeros. */
static inline char *
put_float4(char *p, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    if (bits == 0)
        return put_decimal(p, 0, 0);
    if (bits >> 31)
        *p++ = '-';
    bits &= INT32_MAX;
    double magnitude = float4_of(bits);
    if (!(magnitude >= 1e-4f && magnitude < 1e6))
        return NULL;
    double low = (magnitude + float4_of(bits - 1)) / 2, high = (magnitude + float4_of(bits + 1)) / 2;
    for (int decimals = 0; decimals <= FLOAT4_DECIMALS; decimals++) {
        double scaled = magnitude * TEN_TO[decimals];
        uint64_t number = (uint64_t)scaled;
        double rest = scaled - (double)number;
        number += rest > 0.5 || (rest == 0.5 && number & 1);
        if (low * TEN_TO[decimals] < (double)number && (double)number < high * TEN_TO[decimals])
            return put_decimal(p, number, decimals);
    }
    return NULL;
}

/* ---- reading: 0, or -1 where it is left to the Python */

/* Something near the number that a text of digits and at most one point says. */
static inline int
parse_decimal(const uint8_t *text, Py_ssize_t length, double *value)
{
    char copy[MOST_BYTES_OF_A_FLOAT];
    uint64_t number = 0;
    int point = 0, decimals = 0, negative = length > 0 && text[0] == '-';
    if (length >= MOST_BYTES_OF_A_FLOAT)
        return -1;
    for (Py_ssize_t i = negative; i < length; i++) {
        if (text[i] == '.' && !point)
            point = 1;
        else if (text[i] >= '0' && text[i] <= '9' && number < UINT64_MAX / 100) {
            number = number * 10 + (text[i] - '0');
            decimals += point;
        } else
            return -1;
    }
    if (number <= EXACT_INTEGERS && decimals < (int)(sizeof(TEN_TO) / sizeof(*TEN_TO))) {
        *value = (double)number / TEN_TO[decimals];
        *value = negative ? -*value : *value;
        return 0;
    }
    memcpy(copy, text, (size_t)length);
    copy[length] = 0;
    *value = PyOS_string_to_double(copy, NULL, NULL);
    if (*value == -1.0 && PyErr_Occurred()) {
        PyErr_Clear();
        return -1;
    }
    return 0;
}

static inline int
parse_float8(const uint8_t *text, Py_ssize_t length, double *value)
{
    char again[MOST_BYTES_OF_A_FLOAT];
    if (parse_decimal(text, length, value) < 0)
        return -1;
    char *end = put_float8(again, *value);
    return end != NULL && end - again == length && memcmp(again, text, (size_t)length) == 0 ? 0 : -1;
}

static inline int
parse_float4(const uint8_t *text, Py_ssize_t length, float *value)
{
    char again[MOST_BYTES_OF_A_FLOAT];
    double wide;
    if (parse_decimal(text, length, &wide) < 0 || wide > 1e6 || wide < -1e6)
        return -1;
    *value = (float)wide;
    char *end = put_float4(again, *value);
    return end != NULL && end - again == length && memcmp(again, text, (size_t)length) == 0 ? 0 : -1;
}
