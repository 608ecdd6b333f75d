/* Rows in COPY's text format in C, as connectors.postgres.copytext makes them. Optional, as
 * schemas/_rowcode.c is: without a compiler the Python does the same.
 *
 * The size is counted first, so what is written always fits.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

/* What stands behind a backslash for a byte that has a meaning in the format; 0 for the others. */
static const char ESCAPED[256] = {['\\'] = '\\', ['\t'] = 't', ['\n'] = 'n', ['\r'] = 'r'};

/* Bytes of a value in the format; -1 with an exception. */
static Py_ssize_t
size_of(PyObject *value)
{
    if (value == Py_None)
        return 2;
    if (!PyBytes_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "a value is bytes or None");
        return -1;
    }
    const unsigned char *p = (const unsigned char *)PyBytes_AS_STRING(value);
    Py_ssize_t length = PyBytes_GET_SIZE(value), size = length;
    for (Py_ssize_t i = 0; i < length; i++)
        size += ESCAPED[p[i]] != 0;
    return size;
}

static char *
put_value(char *out, PyObject *value)
{
    if (value == Py_None) {
        *out++ = '\\';
        *out++ = 'N';
        return out;
    }
    const unsigned char *p = (const unsigned char *)PyBytes_AS_STRING(value);
    Py_ssize_t length = PyBytes_GET_SIZE(value);
    for (Py_ssize_t i = 0; i < length; i++) {
        char escaped = ESCAPED[p[i]];
        if (escaped) {
            *out++ = '\\';
            *out++ = escaped;
        } else
            *out++ = (char)p[i];
    }
    return out;
}

/* Bytes of all rows; -1 with an exception. */
static Py_ssize_t
size_of_all(PyObject *rows)
{
    Py_ssize_t total = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(rows); i++) {
        PyObject *row = PyList_GET_ITEM(rows, i);
        if (!PyList_Check(row) || PyList_GET_SIZE(row) == 0) {
            PyErr_SetString(PyExc_TypeError, "a row is a list of values, at least one");
            return -1;
        }
        for (Py_ssize_t j = 0; j < PyList_GET_SIZE(row); j++) {
            Py_ssize_t size = size_of(PyList_GET_ITEM(row, j));
            if (size < 0)
                return -1;
            total += size + 1; /* and a tab or the line's end */
        }
    }
    return total;
}

PyDoc_STRVAR(encode_rows_doc,
"encode_rows(rows) -> bytes\n\n"
"rows: a list of lists of bytes or None. Raises TypeError.");

static PyObject *
encode_rows(PyObject *module, PyObject *rows)
{
    if (!PyList_Check(rows))
        return PyErr_Format(PyExc_TypeError, "rows are a list");
    Py_ssize_t total = size_of_all(rows);
    PyObject *block = total < 0 ? NULL : PyBytes_FromStringAndSize(NULL, total);
    if (block == NULL)
        return NULL;
    char *out = PyBytes_AS_STRING(block);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(rows); i++) {
        PyObject *row = PyList_GET_ITEM(rows, i);
        for (Py_ssize_t j = 0; j < PyList_GET_SIZE(row); j++) {
            out = put_value(out, PyList_GET_ITEM(row, j));
            *out++ = '\t';
        }
        out[-1] = '\n';
    }
    return block;
}

static PyMethodDef methods[] = {
    {"encode_rows", encode_rows, METH_O, encode_rows_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "connectors.postgres._copytext", "COPY's text format, compiled.", 0, methods, NULL,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__copytext(void)
{
    return PyModuleDef_Init(&module);
}
