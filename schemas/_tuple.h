/* pgoutput's TupleData to an Avro row, as the modules in C write it; schemas/rowencoder.py does the same.
 *
 * Every read is checked against the end of the message; every write is reserved before. What is not simple is
 * left to the column's codec, called as encode(text) -> Avro bytes.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "_calendar.h"
#include "_floats.h"
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

/* What a text says where the value is one long. 0, or -1 for what is left to the codec. */
static int
parse_long(char kind, const uint8_t *text, Py_ssize_t length, int64_t *value)
{
    switch (kind) {
    case KIND_INT:
        return parse_integer(text, length, value) < 0 || *value < INT32_MIN || *value > INT32_MAX ? -1 : 0;
    case KIND_LONG:
        return parse_integer(text, length, value);
    case KIND_DATE:
        return parse_day(text, length, value);
    case KIND_TIME:
        return parse_clock(text, length, value);
    case KIND_TIMESTAMP:
    case KIND_TIMESTAMPTZ:
        return parse_timestamp(text, length, kind == KIND_TIMESTAMPTZ, value);
    default:
        return -1;
    }
}

/* The same of a float's bits. */
static int
parse_float(char kind, const uint8_t *text, Py_ssize_t length, uint64_t *bits)
{
    float value4;
    double value8;
    uint32_t bits4;
    if (kind == KIND_FLOAT8) {
        if (parse_float8(text, length, &value8) < 0)
            return -1;
        memcpy(bits, &value8, sizeof(*bits));
        return 0;
    }
    if (parse_float4(text, length, &value4) < 0)
        return -1;
    memcpy(&bits4, &value4, sizeof(bits4));
    *bits = bits4;
    return 0;
}

/* The caller has reserved them. */
static void
add_little_endian(Row *row, uint64_t bits, int count)
{
    uint8_t *p = (uint8_t *)PyBytes_AS_STRING(row->bytes) + row->size;
    for (int i = 0; i < count; i++)
        p[i] = (uint8_t)(bits >> 8 * i);
    row->size += count;
}

static int
hex_digit(uint8_t digit)
{
    return digit >= '0' && digit <= '9' ? digit - '0' : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* The bytes behind `\x`. 1; 0 for what is left to the codec, and the row is as it was; -1 with an exception. */
static int
add_bytes_of_hex(Row *row, const uint8_t *text, Py_ssize_t length)
{
    Py_ssize_t count = length / 2 - 1, before = row->size;
    if (length < 2 || length % 2 || text[0] != '\\' || text[1] != 'x')
        return 0;
    if (reserve(row, MOST_BYTES_OF_A_LONG + count) < 0)
        return -1;
    add_long(row, count);
    for (const uint8_t *digit = text + 2; digit < text + length; digit += 2) {
        int high = hex_digit(digit[0]), low = hex_digit(digit[1]);
        if (high < 0 || low < 0) {
            row->size = before;
            return 0;
        }
        PyBytes_AS_STRING(row->bytes)[row->size++] = (char)(high << 4 | low);
    }
    return 1;
}

/* One value with its branch. -1 with an exception, or without one: the text is malformed. */
static int
put_value(Row *row, char kind, PyObject *codec, const uint8_t *text, Py_ssize_t length)
{
    int64_t value;
    uint64_t bits;
    int added = 0;
    if (reserve(row, 1 + MOST_BYTES_OF_A_LONG) < 0)
        return -1;
    PyBytes_AS_STRING(row->bytes)[row->size++] = 2;
    switch (kind) {
    case KIND_TEXT:
        add_long(row, length);
        return put_bytes(row, (const char *)text, length);
    case KIND_BOOLEAN:
        if (length != 1 || (*text != 't' && *text != 'f'))
            return -1;
        PyBytes_AS_STRING(row->bytes)[row->size++] = *text == 't';
        return 0;
    case KIND_BYTES:
        added = add_bytes_of_hex(row, text, length);
        break;
    case KIND_FLOAT4:
    case KIND_FLOAT8:
        added = parse_float(kind, text, length, &bits) == 0;
        if (added)
            add_little_endian(row, bits, kind == KIND_FLOAT4 ? 4 : 8);
        break;
    default:
        added = parse_long(kind, text, length, &value) == 0;
        if (added)
            add_long(row, value);
    }
    if (added)
        return added < 0 ? -1 : 0;
    return put_encoded(row, codec, text, length);
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
