/* Rows in C: pgoutput's TupleData to an Avro row (schemas.rowencoder; _tuple.h), and that to PostgreSQL's texts
 * (schemas.rowdecoder).
 *
 * It does what the Python that those two compile does, for the same input and the same errors; tests hold
 * both against each other and against schemas.pgcodec. It is optional: where no compiler was at hand when
 * Keepstream was installed, the Python is used.
 *
 * Every read is checked against the end of the data: `pos` never passes `end`; every write is reserved
 * before. What is not plain (days out of the years 1 to 9999, floats with an exponent) is left to the
 * column's codec, called as decode(data, position) -> (text, position) and encode(text) -> Avro bytes.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "_texts.h"
#include "_tuple.h"

/* One value after its branch. NULL with an exception, or without one: the data is malformed. */
static PyObject *
decode_value(char kind, PyObject *codec, PyObject *row, Py_ssize_t end, Py_ssize_t *pos)
{
    Text text;
    if (read_text(kind, codec, row, end, pos, &text) < 0)
        return NULL;
    return text.made != NULL ? text.made : PyBytes_FromStringAndSize(text.start, text.size);
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
