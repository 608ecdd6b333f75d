/* PostgreSQL's texts of what an Avro row holds, as the modules in C write them; schemas/rowdecoder.py does the
 * same. What is not simple is left to the column's codec, called as decode(data, position) -> (text, position).
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "_kinds.h"
#include "_varint.h"

#define MOST_BYTES_OF_A_TEXT 32 /* of those that are written here, but KIND_TEXT */

static char *
put_integer(char *p, int64_t value)
{
    char text[20];
    char *digit = text + sizeof(text);
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do {
        *--digit = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (value < 0)
        *--digit = '-';
    size_t length = (size_t)(text + sizeof(text) - digit);
    memcpy(p, digit, length);
    return p + length;
}

static char *
put_digits(char *p, unsigned value, int count)
{
    for (int i = count - 1; i >= 0; i--) {
        p[i] = (char)('0' + value % 10);
        value /= 10;
    }
    return p + count;
}

/* `2024-05-01 12:34:56.78` and `+00`; us is of the years 1970 to 9999. Calendar: days counted from
 * 0000-03-01 in eras of 400 years. */
static char *
put_timestamp(char *p, int64_t us, int zone)
{
    int64_t days = us / DAY_US, rest = us % DAY_US;
    unsigned shifted = (unsigned)(days + 719468);
    unsigned era = shifted / 146097, day_of_era = shifted % 146097;
    unsigned year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    unsigned day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    unsigned month_index = (5 * day_of_year + 2) / 153;
    unsigned day = day_of_year - (153 * month_index + 2) / 5 + 1;
    unsigned month = month_index < 10 ? month_index + 3 : month_index - 9;
    unsigned year = year_of_era + era * 400 + (month <= 2);
    unsigned seconds = (unsigned)(rest / SECOND_US), micros = (unsigned)(rest % SECOND_US);
    p = put_digits(p, year, 4);
    *p++ = '-';
    p = put_digits(p, month, 2);
    *p++ = '-';
    p = put_digits(p, day, 2);
    *p++ = ' ';
    p = put_digits(p, seconds / 3600, 2);
    *p++ = ':';
    p = put_digits(p, seconds / 60 % 60, 2);
    *p++ = ':';
    p = put_digits(p, seconds % 60, 2);
    if (micros) {
        *p++ = '.';
        p = put_digits(p, micros, 6);
        while (p[-1] == '0')
            p--;
    }
    if (zone) {
        memcpy(p, "+00", 3);
        p += 3;
    }
    return p;
}

/* The column's codec: a new reference and a new *pos. NULL with or without an exception. */
static PyObject *
call_codec(PyObject *codec, PyObject *data, Py_ssize_t end, Py_ssize_t *pos)
{
    PyObject *pair = PyObject_CallFunction(codec, "On", data, *pos);
    if (pair == NULL) {
        if (PyErr_ExceptionMatches(PyExc_ValueError) || PyErr_ExceptionMatches(PyExc_IndexError))
            PyErr_Clear(); /* `refuse` says what is wrong */
        return NULL;
    }
    PyObject *text = NULL;
    if (PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2) {
        Py_ssize_t after = PyLong_AsSsize_t(PyTuple_GET_ITEM(pair, 1));
        if (after >= *pos && after <= end && PyBytes_Check(PyTuple_GET_ITEM(pair, 0))) {
            *pos = after;
            text = Py_NewRef(PyTuple_GET_ITEM(pair, 0));
        }
    }
    Py_DECREF(pair);
    return text;
}

/* What stands after a value's branch: a piece of the row, a text in `simple`, or one that the codec made. */
typedef struct {
    const char *start;
    Py_ssize_t size;
    char simple[MOST_BYTES_OF_A_TEXT];
    PyObject *made;
} Text;

/* One value after its branch. 0 and a new *pos, or -1 with an exception, or without one: the data is
 * malformed. `made` is a new reference, or NULL. */
static int
read_text(char kind, PyObject *codec, PyObject *row, Py_ssize_t end, Py_ssize_t *pos, Text *text)
{
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(row);
    Py_ssize_t p = *pos;
    int64_t value;
    Piece piece;
    char *after = NULL;
    text->made = NULL;
    text->start = text->simple;
    switch (kind) {
    case KIND_TEXT:
        if (view_bytes(data, end, pos, &piece) < 0)
            return -1;
        text->start = (const char *)piece.start;
        text->size = piece.size;
        return 0;
    case KIND_INT:
    case KIND_LONG:
        if (read_long(data, end, &p, &value) < 0)
            return -1;
        if (kind == KIND_INT && (value < INT32_MIN || value > INT32_MAX))
            return -1;
        after = put_integer(text->simple, value);
        break;
    case KIND_BOOLEAN:
        if (p >= end || data[p] > 1)
            return -1;
        text->simple[0] = data[p++] ? 't' : 'f';
        after = text->simple + 1;
        break;
    case KIND_TIMESTAMP:
    case KIND_TIMESTAMPTZ:
        if (read_long(data, end, &p, &value) < 0)
            return -1;
        if (value >= 0 && value < YEAR_10000_US)
            after = put_timestamp(text->simple, value, kind == KIND_TIMESTAMPTZ);
        break;
    }
    if (after != NULL) {
        text->size = after - text->simple;
        *pos = p;
        return 0;
    }
    text->made = call_codec(codec, row, end, pos);
    if (text->made == NULL)
        return -1;
    text->start = PyBytes_AS_STRING(text->made);
    text->size = PyBytes_GET_SIZE(text->made);
    return 0;
}
