/* Days and times of day of the years 1 to 9999, to PostgreSQL's texts and back; schemas/pgtime.py does the same,
 * and the other years. The calendar: days counted from 0000-03-01 in eras of 400 years.
 */

#pragma once

#include <stddef.h>
#include <stdint.h>

#define SECOND_US 1000000LL
#define DAY_US (86400LL * SECOND_US)
#define EPOCH_DAY 719468    /* 1970-01-01 */
#define FIRST_DAY (-719162) /* 0001-01-01, since 1970 */
#define AFTER_LAST_DAY 2932897
#define FIRST_US (FIRST_DAY * DAY_US)
#define AFTER_LAST_US (AFTER_LAST_DAY * DAY_US)

/* ---- writing */

static inline char *
put_digits(char *p, unsigned value, int count)
{
    for (int i = count - 1; i >= 0; i--) {
        p[i] = (char)('0' + value % 10);
        value /= 10;
    }
    return p + count;
}

/* `2024-05-01` of days since 1970 */
static inline char *
put_day(char *p, int64_t day)
{
    unsigned shifted = (unsigned)(day + EPOCH_DAY);
    unsigned era = shifted / 146097, day_of_era = shifted % 146097;
    unsigned year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    unsigned day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    unsigned month_index = (5 * day_of_year + 2) / 153;
    unsigned day_of_month = day_of_year - (153 * month_index + 2) / 5 + 1;
    unsigned month = month_index < 10 ? month_index + 3 : month_index - 9;
    p = put_digits(p, year_of_era + era * 400 + (month <= 2), 4);
    *p++ = '-';
    p = put_digits(p, month, 2);
    *p++ = '-';
    return put_digits(p, day_of_month, 2);
}

/* `12:34:56.78` of microseconds below a day */
static inline char *
put_clock(char *p, int64_t us)
{
    unsigned seconds = (unsigned)(us / SECOND_US), micros = (unsigned)(us % SECOND_US);
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
    return p;
}

/* `2024-05-01 12:34:56.78`, and `+00`, of microseconds since 1970 */
static inline char *
put_timestamp(char *p, int64_t us, int zone)
{
    int64_t since_first = us - FIRST_US;
    p = put_day(p, since_first / DAY_US + FIRST_DAY);
    *p++ = ' ';
    p = put_clock(p, since_first % DAY_US);
    if (zone) {
        *p++ = '+';
        p = put_digits(p, 0, 2);
    }
    return p;
}

/* ---- reading: 0, or -1 for anything else */

/* `count` digits, or -1. */
static inline int
take_digits(const uint8_t *p, int count)
{
    int sum = 0;
    for (int i = 0; i < count; i++) {
        if (p[i] < '0' || p[i] > '9')
            return -1;
        sum = sum * 10 + (p[i] - '0');
    }
    return sum;
}

static inline int
parse_day(const uint8_t *t, ptrdiff_t length, int64_t *days)
{
    static const uint8_t days_in[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    if (length != 10 || t[4] != '-' || t[7] != '-')
        return -1;
    int year = take_digits(t, 4), month = take_digits(t + 5, 2), day = take_digits(t + 8, 2);
    if (year < 1 || month < 1 || month > 12 || day < 1 || day > days_in[month - 1])
        return -1;
    int leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if (month == 2 && day == 29 && !leap)
        return -1;
    int64_t shifted = month > 2 ? year : year - 1; /* years begin in March */
    int64_t era = shifted / 400, year_of_era = shifted % 400;
    int64_t day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    *days = era * 146097 + day_of_era - EPOCH_DAY;
    return 0;
}

static inline int
parse_clock(const uint8_t *t, ptrdiff_t length, int64_t *us)
{
    if (length < 8 || length == 9 || length > 15 || t[2] != ':' || t[5] != ':')
        return -1;
    int hour = take_digits(t, 2), minute = take_digits(t + 3, 2), second = take_digits(t + 6, 2), micros = 0;
    if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59)
        return -1;
    if (length > 8) {
        int count = (int)length - 9;
        micros = take_digits(t + 9, count);
        if (t[8] != '.' || micros < 0 || t[length - 1] == '0')
            return -1;
        for (; count < 6; count++)
            micros *= 10;
    }
    *us = (hour * 3600LL + minute * 60 + second) * SECOND_US + micros;
    return 0;
}

/* `zone`: with `+00` at the end */
static inline int
parse_timestamp(const uint8_t *t, ptrdiff_t length, int zone, int64_t *us)
{
    int64_t days, clock;
    if (zone) {
        if (length < 3 || t[length - 3] != '+' || take_digits(t + length - 2, 2) != 0)
            return -1;
        length -= 3;
    }
    if (length < 19 || t[10] != ' ' || parse_day(t, 10, &days) < 0 || parse_clock(t + 11, length - 11, &clock) < 0)
        return -1;
    *us = days * DAY_US + clock;
    return 0;
}
