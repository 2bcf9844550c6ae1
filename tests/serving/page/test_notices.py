"""Warnings of one request reach its page, and no other's."""

import logging
import threading

from instantid_jax.serving.page.notices import collected

logger = logging.getLogger("instantid_jax.somewhere")


def test_warnings_of_this_thread_are_collected_once():
    with collected() as warned:
        logger.warning("cut at %d", 77)
        logger.warning("cut at %d", 77)
        logger.info("not a warning")
        other = threading.Thread(target=logger.warning, args=("of another",))
        other.start()
        other.join()
    logger.warning("after")
    assert warned == ["cut at 77"]
