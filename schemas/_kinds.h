/* How a column is coded, for all modules in C. */

#pragma once

/* One letter a column, as rowcode.kinds_of gives them. */
#define KIND_TEXT 's'        /* length and bytes */
#define KIND_INT 'i'         /* zigzag, 32 bits */
#define KIND_LONG 'l'        /* zigzag, 64 bits */
#define KIND_BOOLEAN 'b'     /* one byte */
#define KIND_DATE 'd'        /* days since 1970 */
#define KIND_TIME 'c'        /* microseconds since midnight */
#define KIND_FLOAT4 '4'      /* four bytes */
#define KIND_FLOAT8 '8'      /* eight bytes */
#define KIND_BYTES 'h'       /* length and bytes, shown in hex */
#define KIND_TIMESTAMP 't'   /* microseconds since 1970 */
#define KIND_TIMESTAMPTZ 'z' /* the same, shown as UTC */
#define KIND_SKIPPED 'x'     /* no part of the record */
