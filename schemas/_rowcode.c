/* Rows in C: pgoutput's TupleData to an Avro row (schemas.rowencoder; _tuple.h), and that to PostgreSQL's texts
 * (schemas.rowdecoder).
 *
 * It does what the Python that those two compile does, for the same input and the same errors; tests hold
 * both against each other and against schemas.pgcodec. It is optional: where no compiler was at hand when
 * Keepstream was installed, the Python is used.
 *
 * Every read is checked against the end of the data: `pos` never passes `end`; every write is reserved
 * before. What is not simple (floats, dates, times, bytea, timestamps out of 1970 to 9999) is left to the
 * column's codec, called as decode(data, position) -> (text, position) and encode(text) -> Avro bytes.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "_tuple.h"

static PyObject *
make_integer(int64_t value)
{
    char text[20];
    char *p = text + sizeof(text);
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do {
        *--p = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (value < 0)
        *--p = '-';
    return PyBytes_FromStringAndSize(p, text + sizeof(text) - p);
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
static PyObject *
make_timestamp(int64_t us, int zone)
{
    char text[32];
    char *p = text;
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
    return PyBytes_FromStringAndSize(text, p - text);
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
        if (after >= *pos && after <= end) {
            *pos = after;
            text = Py_NewRef(PyTuple_GET_ITEM(pair, 0));
        }
    }
    Py_DECREF(pair);
    return text;
}

/* One value after its branch. NULL with an exception, or without one: the data is malformed. */
static PyObject *
decode_value(char kind, PyObject *codec, PyObject *row, Py_ssize_t end, Py_ssize_t *pos)
{
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(row);
    Py_ssize_t p = *pos;
    int64_t value;
    switch (kind) {
    case KIND_TEXT:
        if (read_long(data, end, &p, &value) < 0 || value < 0 || value > end - p)
            return NULL;
        *pos = p + (Py_ssize_t)value;
        return PyBytes_FromStringAndSize((const char *)data + p, (Py_ssize_t)value);
    case KIND_INT:
    case KIND_LONG:
        if (read_long(data, end, &p, &value) < 0)
            return NULL;
        if (kind == KIND_INT && (value < INT32_MIN || value > INT32_MAX))
            return NULL;
        *pos = p;
        return make_integer(value);
    case KIND_BOOLEAN:
        if (p >= end || data[p] > 1)
            return NULL;
        *pos = p + 1;
        return PyBytes_FromStringAndSize(data[p] ? "t" : "f", 1);
    case KIND_TIMESTAMP:
    case KIND_TIMESTAMPTZ:
        if (read_long(data, end, &p, &value) < 0)
            return NULL;
        if (value >= 0 && value < YEAR_10000_US) {
            *pos = p;
            return make_timestamp(value, kind == KIND_TIMESTAMPTZ);
        }
        return call_codec(codec, row, end, pos);
    default:
        return call_codec(codec, row, end, pos);
    }
}

/* Never returns a value: `refuse` raises. */
static PyObject *
refuse_row(PyObject *refuse, PyObject *data, PyObject *position)
{
    PyObject *result = PyObject_CallFunctionObjArgs(refuse, data, position, NULL);
    if (result != NULL) {
        Py_DECREF(result);
        PyErr_SetString(PyExc_RuntimeError, "refuse did not raise");
    }
    return NULL;
}

PyDoc_STRVAR(decode_row_doc,
"decode_row(kinds, codecs, refuse, data, position) -> list of bytes or None\n\n"
"kinds: a letter a column. codecs: a callable a column. refuse: called as (data, position), raises.");

static PyObject *
decode_row(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 5 || !PyBytes_Check(args[0]) || !PyTuple_Check(args[1]) || !PyBytes_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "decode_row(bytes, tuple, callable, bytes, int)");
        return NULL;
    }
    PyObject *row = args[3];
    Py_ssize_t pos = PyLong_AsSsize_t(args[4]);
    if (pos < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a negative position");
        return NULL;
    }
    Py_ssize_t columns = PyBytes_GET_SIZE(args[0]), end = PyBytes_GET_SIZE(row);
    if (PyTuple_GET_SIZE(args[1]) != columns) {
        PyErr_SetString(PyExc_TypeError, "as many codecs as kinds");
        return NULL;
    }
    const char *kinds = PyBytes_AS_STRING(args[0]);
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(row);
    PyObject *values = PyList_New(columns);
    if (values == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < columns; i++) {
        PyObject *value = NULL;
        if (pos < end && data[pos] == 0) {
            pos++;
            value = Py_NewRef(Py_None);
        } else if (pos < end && data[pos] == 2) {
            pos++;
            value = decode_value(kinds[i], PyTuple_GET_ITEM(args[1], i), row, end, &pos);
        }
        if (value == NULL) {
            Py_DECREF(values);
            return PyErr_Occurred() ? NULL : refuse_row(args[2], row, args[4]);
        }
        PyList_SET_ITEM(values, i, value);
    }
    if (pos != end) {
        Py_DECREF(values);
        return refuse_row(args[2], row, args[4]);
    }
    return values;
}

/* ---- encoding */

PyDoc_STRVAR(encode_row_doc,
"encode_row(kinds, codecs, whole, refuse, message, position) -> (row, absent, position after)\n\n"
"kinds: a letter a column, x for one that is skipped. codecs: a callable text -> Avro bytes a column.\n"
"whole: whether columns may be unsent. refuse: called as (message, position), raises.");

static PyObject *
encode_row(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 6 || !PyBytes_Check(args[0]) || !PyTuple_Check(args[1]) || !PyBytes_Check(args[4]) ||
        PyTuple_GET_SIZE(args[1]) != PyBytes_GET_SIZE(args[0])) {
        PyErr_SetString(PyExc_TypeError, "encode_row(bytes, tuple of as many, bool, callable, bytes, int)");
        return NULL;
    }
    PyObject *message = args[4], *absent = NULL, *result = NULL;
    int whole = PyObject_IsTrue(args[2]);
    Py_ssize_t pos = PyLong_AsSsize_t(args[5]);
    if (whole < 0 || pos < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a negative position");
        return NULL;
    }
    Py_ssize_t left = PyBytes_GET_SIZE(message) - pos;
    Row row = {PyBytes_FromStringAndSize(NULL, left > 0 ? left + MOST_BYTES_OF_A_LONG : 16), 0};
    if (row.bytes == NULL)
        return NULL;
    if (encode_columns(&row, args[0], args[1], whole, message, &pos, &absent) < 0) {
        if (!PyErr_Occurred())
            refuse_row(args[3], message, args[5]);
    } else if (_PyBytes_Resize(&row.bytes, row.size) == 0) {
        PyObject *unsent = absent != NULL ? PyList_AsTuple(absent) : PyTuple_New(0);
        result = unsent != NULL ? Py_BuildValue("ONn", row.bytes, unsent, pos) : NULL;
    }
    Py_XDECREF(row.bytes);
    Py_XDECREF(absent);
    return result;
}

static PyMethodDef methods[] = {
    {"encode_row", (PyCFunction)(void (*)(void))encode_row, METH_FASTCALL, encode_row_doc},
    {"decode_row", (PyCFunction)(void (*)(void))decode_row, METH_FASTCALL, decode_row_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "schemas._rowcode", "Rows from Avro, compiled.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__rowcode(void)
{
    return PyModuleDef_Init(&module);
}
