//! Rules about owners: the smallest programs have objects. They end without a clean-up, so that the mistake stands alone.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case::python("foreign-close", CLOSED_BY_NUMBER, CLOSED_BY_OBJECT),
    Case::python("stale-close", CLOSED_BY_FORMER_OBJECT, CLOSED_BY_OBJECT_AND_AGAIN)
        // What made it possible.
        .also(&["foreign-close"]),
    Case::python("stale-use", READ_BY_FORMER_OBJECT, READ_BY_OBJECT).also(&["foreign-close"]),
    Case::python("two-owners", TWO_OBJECTS, TWO_NUMBERS),
];

const CLOSED_BY_NUMBER: &str = "
import os
f = open('/dev/zero', 'rb', 0)
f.read(1)
os.close(f.fileno())
os._exit(0)
";

const CLOSED_BY_OBJECT: &str = "
import os
f = open('/dev/zero', 'rb', 0)
f.read(1)
f.close()
os._exit(0)
";

const CLOSED_BY_FORMER_OBJECT: &str = "
import os
f = open('/dev/zero', 'rb', 0)
f.read(1)
os.close(f.fileno())
g = open('/dev/zero', 'rb', 0)
g.read(1)
f.close()
os._exit(0)
";

const CLOSED_BY_OBJECT_AND_AGAIN: &str = "
import os
f = open('/dev/zero', 'rb', 0)
f.read(1)
f.close()
g = open('/dev/zero', 'rb', 0)
g.read(1)
f.close()
os._exit(0)
";

const READ_BY_FORMER_OBJECT: &str = "
import os, time
f = open('/dev/zero', 'rb', 0)
f.read(1)
os.close(f.fileno())
g = os.open('/dev/urandom', os.O_RDONLY)
time.sleep(0.1)
f.read(1)
os._exit(0)
";

const READ_BY_OBJECT: &str = "
import os, time
f = open('/dev/zero', 'rb', 0)
f.read(1)
f.close()
g = open('/dev/urandom', 'rb', 0)
time.sleep(0.1)
g.read(1)
os._exit(0)
";

const TWO_OBJECTS: &str = "
import os
f = open('/dev/zero', 'rb', 0)
f.read(1)
g = os.fdopen(f.fileno(), 'rb', 0)
g.read(1)
f.read(1)
os._exit(0)
";

const TWO_NUMBERS: &str = "
import os
f = open('/dev/zero', 'rb', 0)
f.read(1)
g = os.fdopen(os.dup(f.fileno()), 'rb', 0)
g.read(1)
f.read(1)
os._exit(0)
";
