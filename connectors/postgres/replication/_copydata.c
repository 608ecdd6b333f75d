/* XLogData messages from libpq to a list, one after the other, for connectors.postgres.replication.copydata, which says what
 * and does the same in Python. Optional, as schemas/_rowcode.c is.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define HEADER_BYTES 25 /* 'w', Int64 start, Int64 end, Int64 time */

/* Append the message to the list if it is XLogData: 1; 0 if it is something else, -1 with an error. */
static int
take(PyObject *data, PyObject *messages, char *header, Py_ssize_t *size)
{
    Py_buffer view;
    int taken = 0;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return -1;
    if (view.len >= HEADER_BYTES && *(const char *)view.buf == 'w') {
        PyObject *message = PyBytes_FromStringAndSize((const char *)view.buf + HEADER_BYTES, view.len - HEADER_BYTES);
        taken = message == NULL || PyList_Append(messages, message) < 0 ? -1 : 1;
        Py_XDECREF(message);
        memcpy(header, view.buf, HEADER_BYTES);
        *size = view.len;
    }
    PyBuffer_Release(&view);
    return taken;
}

PyDoc_STRVAR(take_messages_doc, "take_messages(get_copy_data, messages, room_bytes, overhead_bytes) ->"
                                " (length, data, bytes, header)");

static PyObject *
take_messages(PyObject *module, PyObject *args)
{
    PyObject *get_copy_data, *messages, *answer, *result = NULL;
    Py_ssize_t room, overhead, size = 0, taken_bytes = 0, header_bytes = 0;
    char header[HEADER_BYTES];
    if (!PyArg_ParseTuple(args, "OO!nn", &get_copy_data, &PyList_Type, &messages, &room, &overhead))
        return NULL;
    PyObject *asynchronous = PyLong_FromLong(1);
    if (asynchronous == NULL)
        return NULL;
    while ((answer = PyObject_CallOneArg(get_copy_data, asynchronous)) != NULL) {
        if (!PyTuple_Check(answer) || PyTuple_GET_SIZE(answer) != 2) {
            PyErr_SetString(PyExc_TypeError, "get_copy_data returned no pair");
            Py_DECREF(answer);
            break;
        }
        long length = PyLong_AsLong(PyTuple_GET_ITEM(answer, 0));
        PyObject *data = PyTuple_GET_ITEM(answer, 1);
        int taken = length == -1 && PyErr_Occurred() ? -1 : length <= 0 ? 0 : take(data, messages, header, &size);
        if (taken > 0) {
            header_bytes = HEADER_BYTES;
            taken_bytes += size + overhead;
            data = Py_None;
        }
        if (taken == 0 || (taken > 0 && taken_bytes >= room))
            result = Py_BuildValue("lOny#", length, data, taken_bytes, header, header_bytes);
        Py_DECREF(answer);
        if (taken < 0 || result != NULL || PyErr_Occurred())
            break;
    }
    Py_DECREF(asynchronous);
    return result;
}

static PyMethodDef methods[] = {
    {"take_messages", take_messages, METH_VARARGS, take_messages_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "connectors.postgres.replication._copydata", "XLogData messages, compiled.", 0, methods, NULL, NULL,
    NULL, NULL,
};

PyMODINIT_FUNC
PyInit__copydata(void)
{
    return PyModuleDef_Init(&module);
}
