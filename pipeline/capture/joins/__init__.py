"""Tables that join the publication by themselves, and that leave it for the application's sake (P11).

`joins` finds those that may join, `joining` lets one; `protection` and `leavings` are of those that leave.
Imports `opened` and what stands below it; `housekeeping` calls it, between two transactions.
"""
