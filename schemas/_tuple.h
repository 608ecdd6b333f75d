/* pgoutput's TupleData to an Avro row, as the modules in C write it; schemas/rowencoder.py does the same.
 *
 * Every read is checked against the end of the message; every write is reserved before. What is not simple is
 * left to the column's codec, called as encode(text) -> Avro bytes.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "_kinds.h"
#include "_varint.h"

/* A row that is being written. `bytes` is grown as needed and shrunk to `size` in the end. */
typedef struct {
    PyObject *bytes;
    Py_ssize_t size;
} Row;

static int
reserve(Row *row, Py_ssize_t more)
{
    Py_ssize_t room = PyBytes_GET_SIZE(row->bytes) - row->size;
    if (more <= room)
        return 0;
    if (more > PY_SSIZE_T_MAX / 2 - row->size) {
        PyErr_NoMemory();
        return -1;
    }
    return _PyBytes_Resize(&row->bytes, row->size + more + row->size / 8);
}

/* The caller has reserved MOST_BYTES_OF_A_LONG. */
static void
add_long(Row *row, int64_t value)
{
    uint8_t *start = (uint8_t *)PyBytes_AS_STRING(row->bytes);
    row->size = put_long(start + row->size, value) - start;
}

/* `-1204`: no sign but minus, no leading zeros, at most 18 digits; 0, or -1 for anything else. */
static int
parse_integer(const uint8_t *text, Py_ssize_t length, int64_t *value)
{
    int negative = length > 0 && text[0] == '-';
    const uint8_t *digit = text + negative, *end = text + length;
    if (digit == end || end - digit > 18 || (*digit == '0' && length > 1))
        return -1;
    int64_t sum = 0;
    for (; digit < end; digit++) {
        if (*digit < '0' || *digit > '9')
            return -1;
        sum = sum * 10 + (*digit - '0');
    }
    *value = negative ? -sum : sum;
    return 0;
}

/* `count` digits, or -1. */
static int
take_digits(const uint8_t *p, int count)
{
    int sum = 0;
    for (int i = 0; i < count; i++) {
        if (p[i] < '0' || p[i] > '9')
            return -1;
        sum = sum * 10 + (p[i] - '0');
    }
    return sum;
}

/* `2024-05-01 12:34:56.78`, and `+00` with a zone, of the years 1970 to 9999; 0, or -1 for anything else, which
 * the codec knows or refuses. */
static int
parse_timestamp(const uint8_t *t, Py_ssize_t length, int zone, int64_t *us)
{
    static const uint8_t days_in[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    if (zone) {
        if (length < 3 || memcmp(t + length - 3, "+00", 3) != 0)
            return -1;
        length -= 3;
    }
    if (length < 19 || length == 20 || length > 26 || t[4] != '-' || t[7] != '-' || t[10] != ' ' || t[13] != ':' ||
        t[16] != ':')
        return -1;
    int year = take_digits(t, 4), month = take_digits(t + 5, 2), day = take_digits(t + 8, 2);
    int hour = take_digits(t + 11, 2), minute = take_digits(t + 14, 2), second = take_digits(t + 17, 2);
    if (year < 1970 || month < 1 || month > 12 || day < 1 || day > days_in[month - 1] || hour < 0 || hour > 23 ||
        minute < 0 || minute > 59 || second < 0 || second > 59)
        return -1;
    int leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if (month == 2 && day == 29 && !leap)
        return -1;
    int micros = 0;
    if (length > 19) {
        int count = (int)length - 20;
        micros = take_digits(t + 20, count);
        if (t[19] != '.' || micros < 0 || t[length - 1] == '0')
            return -1;
        for (; count < 6; count++)
            micros *= 10;
    }
    int64_t shifted = month > 2 ? year : year - 1; /* years begin in March */
    int64_t era = shifted / 400, year_of_era = shifted % 400;
    int64_t day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    int64_t days = era * 146097 + day_of_era - 719468;
    *us = days * DAY_US + (hour * 3600LL + minute * 60 + second) * SECOND_US + micros;
    return 0;
}

static int
put_bytes(Row *row, const char *content, Py_ssize_t length)
{
    if (reserve(row, length) < 0)
        return -1;
    memcpy(PyBytes_AS_STRING(row->bytes) + row->size, content, (size_t)length);
    row->size += length;
    return 0;
}

/* What the column's codec makes of the text. -1 with or without an exception. */
static int
put_encoded(Row *row, PyObject *codec, const uint8_t *text, Py_ssize_t length)
{
    PyObject *encoded = PyObject_CallFunction(codec, "y#", (const char *)text, length);
    if (encoded == NULL) {
        if (PyErr_ExceptionMatches(PyExc_ValueError) || PyErr_ExceptionMatches(PyExc_LookupError))
            PyErr_Clear(); /* `refuse` says what is wrong */
        return -1;
    }
    int result = -1;
    if (PyBytes_Check(encoded))
        result = put_bytes(row, PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded));
    Py_DECREF(encoded);
    return result;
}

/* One value with its branch. -1 with an exception, or without one: the text is malformed. */
static int
put_value(Row *row, char kind, PyObject *codec, const uint8_t *text, Py_ssize_t length)
{
    int64_t value = 0;
    if (reserve(row, 1 + MOST_BYTES_OF_A_LONG) < 0)
        return -1;
    PyBytes_AS_STRING(row->bytes)[row->size++] = 2;
    switch (kind) {
    case KIND_TEXT:
        add_long(row, length);
        return put_bytes(row, (const char *)text, length);
    case KIND_INT:
    case KIND_LONG:
        if (parse_integer(text, length, &value) < 0 ||
            (kind == KIND_INT && (value < INT32_MIN || value > INT32_MAX)))
            return put_encoded(row, codec, text, length);
        add_long(row, value);
        return 0;
    case KIND_BOOLEAN:
        if (length != 1 || (*text != 't' && *text != 'f'))
            return -1;
        PyBytes_AS_STRING(row->bytes)[row->size++] = *text == 't';
        return 0;
    case KIND_TIMESTAMP:
    case KIND_TIMESTAMPTZ:
        if (parse_timestamp(text, length, kind == KIND_TIMESTAMPTZ, &value) < 0)
            return put_encoded(row, codec, text, length);
        add_long(row, value);
        return 0;
    default:
        return put_encoded(row, codec, text, length);
    }
}

static int
add_absent(PyObject **absent, Py_ssize_t index)
{
    PyObject *number = PyLong_FromSsize_t(index);
    if (number == NULL)
        return -1;
    if (*absent == NULL)
        *absent = PyList_New(0);
    int result = *absent == NULL ? -1 : PyList_Append(*absent, number);
    Py_DECREF(number);
    return result;
}

/* The columns of a TupleData, all that `kinds` does not skip. 0 and a new *pos, or -1 as put_value. */
static int
encode_columns(Row *row, PyObject *kinds, PyObject *codecs, int whole, PyObject *message, Py_ssize_t *pos,
               PyObject **absent)
{
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(message);
    Py_ssize_t p = *pos, end = PyBytes_GET_SIZE(message), columns = PyBytes_GET_SIZE(kinds);
    if (end - p < 2 || (data[p] << 8 | data[p + 1]) != columns)
        return -1;
    p += 2;
    for (Py_ssize_t i = 0, place = -1; i < columns; i++) {
        char kind = PyBytes_AS_STRING(kinds)[i];
        uint8_t form = p < end ? data[p++] : 0;
        place += kind != KIND_SKIPPED;
        if (form == 'n' || form == 'u') {
            if (kind == KIND_SKIPPED)
                continue;
            if (form == 'u' && (!whole || add_absent(absent, place) < 0))
                return -1;
            if (reserve(row, 1) < 0)
                return -1;
            PyBytes_AS_STRING(row->bytes)[row->size++] = 0;
            continue;
        }
        if (form != 't' || end - p < 4)
            return -1;
        uint32_t length =
            (uint32_t)data[p] << 24 | (uint32_t)data[p + 1] << 16 | (uint32_t)data[p + 2] << 8 | data[p + 3];
        p += 4;
        if (length > INT32_MAX || (Py_ssize_t)length > end - p)
            return -1;
        if (kind != KIND_SKIPPED && put_value(row, kind, PyTuple_GET_ITEM(codecs, i), data + p, length) < 0)
            return -1;
        p += length;
    }
    *pos = p;
    return 0;
}
