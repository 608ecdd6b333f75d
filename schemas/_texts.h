/* PostgreSQL's texts of what an Avro row holds, as the modules in C write them; schemas/rowdecoder.py does the
 * same. What is not simple is left to the column's codec, called as decode(data, position) -> (text, position).
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "_calendar.h"
#include "_floats.h"
#include "_kinds.h"
#include "_varint.h"

#define MOST_BYTES_OF_A_TEXT 32 /* of those that are written here, but KIND_TEXT and KIND_BYTES */

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

/* `\x` and two digits a byte: a new reference, or NULL with an exception. */
static PyObject *
make_hex(Piece raw)
{
    static const char digits[] = "0123456789abcdef";
    if (raw.size > PY_SSIZE_T_MAX / 2 - 1)
        return PyErr_NoMemory();
    PyObject *text = PyBytes_FromStringAndSize(NULL, 2 + 2 * raw.size);
    if (text == NULL)
        return NULL;
    char *p = PyBytes_AS_STRING(text);
    *p++ = '\\';
    *p++ = 'x';
    for (ptrdiff_t i = 0; i < raw.size; i++) {
        *p++ = digits[raw.start[i] >> 4];
        *p++ = digits[raw.start[i] & 15];
    }
    return text;
}

static uint64_t
little_endian_at(const uint8_t *p, int count)
{
    uint64_t bits = 0;
    for (int i = count - 1; i >= 0; i--)
        bits = bits << 8 | p[i];
    return bits;
}

/* NULL where it is left to the codec. */
static char *
read_float(char kind, const uint8_t *data, Py_ssize_t end, Py_ssize_t *pos, char *out)
{
    int size = kind == KIND_FLOAT4 ? 4 : 8;
    if (end - *pos < size)
        return NULL;
    uint64_t bits = little_endian_at(data + *pos, size);
    *pos += size;
    if (kind == KIND_FLOAT4)
        return put_float4(out, (float)float4_of((uint32_t)bits));
    double value;
    memcpy(&value, &bits, sizeof(value));
    return put_float8(out, value);
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

/* The text of a value that is one long. NULL where it is left to the codec. */
static char *
put_of_long(char kind, int64_t value, char *out)
{
    switch (kind) {
    case KIND_INT:
        return value < INT32_MIN || value > INT32_MAX ? NULL : put_integer(out, value);
    case KIND_LONG:
        return put_integer(out, value);
    case KIND_DATE:
        return value < FIRST_DAY || value >= AFTER_LAST_DAY ? NULL : put_day(out, value);
    case KIND_TIME:
        return value < 0 || value >= DAY_US ? NULL : put_clock(out, value);
    case KIND_TIMESTAMP:
    case KIND_TIMESTAMPTZ:
        if (value < FIRST_US || value >= AFTER_LAST_US)
            return NULL;
        return put_timestamp(out, value, kind == KIND_TIMESTAMPTZ);
    default:
        return NULL;
    }
}

/* What is written here, in `out`, and a new *pos. NULL where it is left to the codec. */
static char *
read_simple(char kind, const uint8_t *data, Py_ssize_t end, Py_ssize_t *pos, char *out)
{
    int64_t value;
    switch (kind) {
    case KIND_BOOLEAN:
        if (*pos >= end || data[*pos] > 1)
            return NULL;
        *out = data[(*pos)++] ? 't' : 'f';
        return out + 1;
    case KIND_FLOAT4:
    case KIND_FLOAT8:
        return read_float(kind, data, end, pos, out);
    default:
        return read_long(data, end, pos, &value) < 0 ? NULL : put_of_long(kind, value, out);
    }
}

/* One value after its branch. 0 and a new *pos, or -1 with an exception, or without one: the data is
 * malformed. `made` is a new reference, or NULL. */
static int
read_text(char kind, PyObject *codec, PyObject *row, Py_ssize_t end, Py_ssize_t *pos, Text *text)
{
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(row);
    Py_ssize_t after = *pos;
    Piece piece;
    text->made = NULL;
    if (kind == KIND_TEXT || kind == KIND_BYTES) {
        if (view_bytes(data, end, pos, &piece) < 0)
            return -1;
        text->start = (const char *)piece.start;
        text->size = piece.size;
        if (kind == KIND_TEXT)
            return 0;
        text->made = make_hex(piece);
    } else {
        char *end_of_text = read_simple(kind, data, end, &after, text->simple);
        if (end_of_text != NULL) {
            text->start = text->simple;
            text->size = end_of_text - text->simple;
            *pos = after;
            return 0;
        }
        text->made = call_codec(codec, row, end, pos);
    }
    if (text->made == NULL)
        return -1;
    text->start = PyBytes_AS_STRING(text->made);
    text->size = PyBytes_GET_SIZE(text->made);
    return 0;
}
