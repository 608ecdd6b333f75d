/* How a column is coded, for all modules in C. */

#pragma once

/* One letter a column, as rowcode.kinds_of gives them. */
#define KIND_TEXT 's'        /* length and bytes */
#define KIND_INT 'i'         /* zigzag, 32 bits */
#define KIND_LONG 'l'        /* zigzag, 64 bits */
#define KIND_BOOLEAN 'b'     /* one byte */
#define KIND_TIMESTAMP 't'   /* microseconds since 1970 */
#define KIND_TIMESTAMPTZ 'z' /* the same, shown as UTC */
#define KIND_SKIPPED 'x'     /* no part of the record */

#define SECOND_US 1000000LL
#define DAY_US (86400LL * SECOND_US)
#define YEAR_10000_US (2932897LL * DAY_US)
