/* Rows in COPY's text format in C, as connectors.postgres.copy.copytext makes them; and straight from changes, as
 * schemas.netchange nets them where every row is inserted or updated once. Optional, as schemas/_rowcode.c is:
 * without a compiler the Python does the same.
 *
 * Room is made before anything is written.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "../../../schemas/_change.h"
#include "../../../schemas/_texts.h"

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
put_null(char *out)
{
    *out++ = '\\';
    *out++ = 'N';
    return out;
}

static char *
put_escaped(char *out, const char *text, Py_ssize_t length)
{
    for (Py_ssize_t i = 0; i < length; i++) {
        char escaped = ESCAPED[(unsigned char)text[i]];
        if (escaped) {
            *out++ = '\\';
            *out++ = escaped;
        } else
            *out++ = text[i];
    }
    return out;
}

static char *
put_value(char *out, PyObject *value)
{
    if (value == Py_None)
        return put_null(out);
    return put_escaped(out, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value));
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

/* ---- straight from changes */

#define KEY_COLUMNS 32 /* PostgreSQL's own bound of an index */
#define FORMS 16       /* of UPDATEs, by what did not come */

/* What a column is to the sets. */
enum { IS_WRITTEN = 1, IS_KEY = 2 };

/* Rows that are written with the same columns. `left_out`: a byte a column. */
typedef struct {
    Piece absent;
    PyObject *left_out, *text;
    Py_ssize_t size, rows;
} Form;

typedef struct {
    PyObject *block;
    const uint8_t *data;
    Py_ssize_t columns;
    const char *kinds, *roles;
    PyObject *decoders;
    PyObject *names; /* of the rows: their keys, encoded */
    Form inserted;
    Form updated[FORMS];
    int forms;
} Sets;

/* What a step came to. REFUSED: with an exception. */
typedef enum { DONE, NOT_APART, REFUSED } Outcome;

static Outcome
make_room(Form *form, Py_ssize_t more)
{
    if (more <= PyBytes_GET_SIZE(form->text) - form->size)
        return DONE;
    if (more > PY_SSIZE_T_MAX / 4 - form->size) {
        PyErr_NoMemory();
        return REFUSED;
    }
    return _PyBytes_Resize(&form->text, form->size + more + form->size / 2 + 1024) < 0 ? REFUSED : DONE;
}

static Outcome
begin_form(const Sets *sets, Form *form, const ChangeView *change)
{
    form->absent = change->absent;
    form->left_out = PyBytes_FromStringAndSize(NULL, sets->columns);
    form->text = PyBytes_FromStringAndSize(NULL, 1024);
    if (form->left_out == NULL || form->text == NULL)
        return REFUSED;
    char *left_out = PyBytes_AS_STRING(form->left_out);
    for (Py_ssize_t i = 0; i < sets->columns; i++)
        left_out[i] = !(sets->roles[i] & IS_WRITTEN);
    ptrdiff_t pos = 0, index;
    read_count(change->absent.start, change->absent.size, &pos, &index); /* its length */
    for (ptrdiff_t i = 0; i < change->absent_count; i++) {
        read_count(change->absent.start, change->absent.size, &pos, &index);
        if (index >= sets->columns || sets->roles[index] & IS_KEY)
            return NOT_APART;
        left_out[index] = 1;
    }
    return DONE;
}

static Outcome
find_form(Sets *sets, const ChangeView *change, Form **found)
{
    if (change->operation == INSERT) {
        *found = &sets->inserted;
        if (change->absent_count)
            return NOT_APART;
        return sets->inserted.text != NULL ? DONE : begin_form(sets, &sets->inserted, change);
    }
    for (int i = 0; i < sets->forms; i++) {
        *found = &sets->updated[i];
        const Piece *absent = &(*found)->absent;
        if (absent->size == change->absent.size &&
            memcmp(absent->start, change->absent.start, (size_t)absent->size) == 0)
            return DONE;
    }
    if (sets->forms == FORMS)
        return NOT_APART;
    *found = &sets->updated[sets->forms++];
    return begin_form(sets, *found, change);
}

/* One value behind its branch, or NULL, and a tab. */
static Outcome
add_value(const Sets *sets, Form *form, Py_ssize_t column, Py_ssize_t end, Py_ssize_t *pos)
{
    if (*pos >= end || (sets->data[*pos] != 0 && sets->data[*pos] != 2))
        return NOT_APART;
    int left_out = PyBytes_AS_STRING(form->left_out)[column], is_null = sets->data[(*pos)++] == 0;
    Text text = {.made = NULL};
    if (is_null && sets->roles[column] & IS_KEY)
        return NOT_APART;
    if (!is_null && read_text(sets->kinds[column], PyTuple_GET_ITEM(sets->decoders, column), sets->block, end,
                              pos, &text) < 0)
        return PyErr_Occurred() ? REFUSED : NOT_APART;
    Outcome outcome = left_out ? DONE : make_room(form, 2 * text.size + 3);
    if (!left_out && outcome == DONE) {
        char *start = PyBytes_AS_STRING(form->text), *out = start + form->size;
        out = is_null ? put_null(out) : put_escaped(out, text.start, text.size);
        *out++ = '\t';
        form->size = out - start;
    }
    Py_XDECREF(text.made);
    return outcome;
}

/* No row may have the key that another one has. `keys`: the pieces of the row that are its key. */
static Outcome
add_name(Sets *sets, const Piece *keys, int count)
{
    Py_ssize_t size = 0, known = PySet_GET_SIZE(sets->names);
    for (int i = 0; i < count; i++)
        size += keys[i].size;
    PyObject *name = PyBytes_FromStringAndSize(NULL, size);
    if (name == NULL)
        return REFUSED;
    char *out = PyBytes_AS_STRING(name);
    for (int i = 0; i < count; i++) {
        memcpy(out, keys[i].start, (size_t)keys[i].size);
        out += keys[i].size;
    }
    int failed = PySet_Add(sets->names, name);
    Py_DECREF(name);
    if (failed)
        return REFUSED;
    return PySet_GET_SIZE(sets->names) > known ? DONE : NOT_APART;
}

static Outcome
add_row(Sets *sets, const ChangeView *change)
{
    Form *form;
    Outcome outcome = find_form(sets, change, &form);
    Piece keys[KEY_COLUMNS];
    int key_count = 0;
    Py_ssize_t pos = change->row.start - sets->data, end = pos + change->row.size;
    for (Py_ssize_t i = 0; outcome == DONE && i < sets->columns; i++) {
        Py_ssize_t start = pos;
        outcome = add_value(sets, form, i, end, &pos);
        if (sets->roles[i] & IS_KEY) {
            if (key_count == KEY_COLUMNS)
                return NOT_APART;
            keys[key_count++] = (Piece){sets->data + start, pos - start};
        }
    }
    if (outcome != DONE)
        return outcome;
    if (pos != end || form->size == 0)
        return NOT_APART;
    PyBytes_AS_STRING(form->text)[form->size - 1] = '\n';
    form->rows++;
    return add_name(sets, keys, key_count);
}

static Outcome
add_all(Sets *sets, int keys_stay)
{
    Py_ssize_t pos = 0, end = PyBytes_GET_SIZE(sets->block);
    Outcome outcome = DONE;
    while (outcome == DONE && pos < end) {
        ChangeView change;
        if (view_row_change(sets->data, end, &pos, &change) < 0 || change.operation == DELETE ||
            change.old_branch != NO_OLD || change.row.start == NULL || (change.operation == UPDATE && !keys_stay))
            return NOT_APART;
        outcome = add_row(sets, &change);
    }
    return outcome;
}

/* (text, rows); None of no rows. */
static PyObject *
take_rows(Form *form)
{
    if (!form->rows)
        Py_RETURN_NONE;
    if (_PyBytes_Resize(&form->text, form->size) < 0)
        return NULL;
    return Py_BuildValue("On", form->text, form->rows);
}

static PyObject *
take_all(Sets *sets)
{
    PyObject *updated = PyDict_New();
    for (int i = 0; updated != NULL && i < sets->forms; i++) {
        PyObject *absent = make_absent(sets->updated[i].absent);
        PyObject *rows = absent != NULL ? take_rows(&sets->updated[i]) : NULL;
        if (rows == NULL || PyDict_SetItem(updated, absent, rows) < 0)
            Py_CLEAR(updated);
        Py_XDECREF(rows);
        Py_XDECREF(absent);
    }
    PyObject *inserted = updated != NULL ? take_rows(&sets->inserted) : NULL;
    if (inserted == NULL) {
        Py_XDECREF(updated);
        return NULL;
    }
    return Py_BuildValue("NN", inserted, updated);
}

static void
free_form(Form *form)
{
    Py_XDECREF(form->left_out);
    Py_XDECREF(form->text);
}

PyDoc_STRVAR(encode_apart_doc,
"encode_apart(block, kinds, decoders, roles, keys_stay) -> (inserted, updated) or None\n\n"
"block: encoded changes of one table, back to back. kinds: a letter a column; decoders: a callable a column;\n"
"roles: a byte a column, 1 written, 2 of the key. keys_stay: whether an UPDATE without an old row keeps its key.\n"
"inserted: (text, rows) or None; updated: those by the columns that did not come. None where the changes are\n"
"not all rows that are inserted or updated once each under whole keys. Raises TypeError and what decoders do.");

static PyObject *
encode_apart(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 5 || !PyBytes_Check(args[0]) || !PyBytes_Check(args[1]) || !PyTuple_Check(args[2]) ||
        !PyBytes_Check(args[3]) || PyTuple_GET_SIZE(args[2]) != PyBytes_GET_SIZE(args[1]) ||
        PyBytes_GET_SIZE(args[3]) != PyBytes_GET_SIZE(args[1]))
        return PyErr_Format(PyExc_TypeError, "encode_apart(bytes, bytes, tuple, bytes, bool) of as many columns");
    int keys_stay = PyObject_IsTrue(args[4]);
    Sets sets = {.block = args[0], .data = (const uint8_t *)PyBytes_AS_STRING(args[0]), .decoders = args[2]};
    sets.columns = PyBytes_GET_SIZE(args[1]);
    sets.kinds = PyBytes_AS_STRING(args[1]);
    sets.roles = PyBytes_AS_STRING(args[3]);
    sets.names = keys_stay < 0 ? NULL : PySet_New(NULL);
    if (sets.names == NULL)
        return NULL;
    Outcome outcome = add_all(&sets, keys_stay);
    PyObject *taken = NULL;
    if (outcome == DONE)
        taken = take_all(&sets);
    else if (outcome == NOT_APART)
        taken = Py_NewRef(Py_None);
    free_form(&sets.inserted);
    for (int i = 0; i < sets.forms; i++)
        free_form(&sets.updated[i]);
    Py_DECREF(sets.names);
    return taken;
}

static PyMethodDef methods[] = {
    {"encode_rows", encode_rows, METH_O, encode_rows_doc},
    {"encode_apart", (PyCFunction)(void (*)(void))encode_apart, METH_FASTCALL, encode_apart_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "connectors.postgres.copy._copytext", "COPY's text format, compiled.", 0, methods, NULL,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__copytext(void)
{
    return PyModuleDef_Init(&module);
}
