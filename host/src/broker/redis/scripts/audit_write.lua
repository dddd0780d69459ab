#!lua flags=allow-oom
-- Notes a change that no other script made. KEYS after the fixed ones: the audit. ARGV: the note.
check_audit()
note_change()
return 'DONE'
