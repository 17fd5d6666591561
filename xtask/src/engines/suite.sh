# SPDX-License-Identifier: Apache-2.0 OR MIT
export STOS_TEST_RUNTIME=$RUNTIME TMPDIR=$work
failed=0
for test in $SUITE; do
    echo "$test"
    "$test" || failed=1
done
exit $failed
