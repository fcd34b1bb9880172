"""What the two documents say that this framework was made after, and the tests that show each of it here.

The documents are the README of Phoenix 0.7.2 and notes on later Phoenix. Each thing they say is one row, in our words and
in the order of the document: with the names of the tests that show it, or with `No(...)`, the reason why there are none.
The tests below see to it that the table stays true: a test that is renamed has to be renamed here. To read it:
`python tests/test_seeds.py` prints it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


class No(str):
    """Why there is no test."""


_PAGE = No("a place on the web of that project, or a picture of it")
_SAID_BELOW = No("an announcement of what comes below")

# A row is what is said, and then tests: `file::test` in Python, `phoenix.test.mjs: its name` for the browser's client.

README: dict[str, list[tuple[str, ...]]] = {
    "Title": [
        ("the logo and the badges", _PAGE),
        ("a web framework for full-featured applications", "test_blog::test_the_first_start_needs_no_set_up_and_shows_a_post"),
        ("fault tolerant", "test_faults::test_a_channel_that_raises_tells_its_client_and_harms_nobody_else", "test_pubsub::test_a_child_that_crashes_is_started_again_and_subscribes_anew"),
        ("with realtime functionality", "test_chat::test_two_windows_chat_and_what_is_said_is_escaped"),
        ("the table of contents", _SAID_BELOW),
    ],
    "Getting started": [
        ("there is an official site", _PAGE),
    ],
    "Requirements": [
        ("a language from a version on", "test_packaging::test_nothing_is_required_but_python"),
    ],
    "Setup": [
        ("1. install by cloning, fetching dependencies, compiling", No("there is nothing to fetch or compile: one file is copied"), "test_cli::test_the_framework_and_its_client_are_copied_as_they_are"),
        ("2. `new` makes an application of a name at a path", "test_cli::test_readme_setup_new"),
        ("the task is run in the folder of the framework, the app is made outside of it", "test_cli::test_readme_setup_new"),
        ("it makes a new folder, or installs into one that is there", "test_cli::test_an_app_that_is_there_is_brought_up_to_date_and_nothing_is_lost"),
        ("an absolute path", "test_cli::test_readme_setup_new", "test_cli::test_an_absolute_path_is_taken_as_it_is"),
        ("a relative path", "test_cli::test_readme_setup_new"),
        ("3. change into it, install dependencies", No("the app holds its copy of the framework"), "test_cli::test_its_tests_pass_with_nothing_installed"),
        ("`start` starts the web server", "test_cli::test_readme_setup_start", "test_cli::test_readme_mix_tasks_server"),
        ("in production, compile protocols for performance", No("a tool of Elixir; here routes, plugs and templates are always made ready at the start"), "test_views::test_all_is_compiled_once_and_nothing_is_read_when_rendering"),
        ("environment and port of production are given as variables", "test_seed_readme::test_setup_environment_and_port_of_production_come_from_variables", "test_cli::test_in_production_it_answers_with_its_error_pages"),
    ],
    "Router example": [
        ("a router with pipelines, scopes, a parameter, a rest of the path, nested resources, and a scope for an API", "test_seed_readme::test_router_example"),
        ("a pipeline is plugs, and a scope is piped through it", "test_seed_readme::test_router_example_the_pipelines_of_a_scope_run_before_its_routes"),
        ("`accepts` and `fetch_session` are plugs of a pipeline", "test_seed_readme::test_router_example_the_pipelines_of_a_scope_run_before_its_routes"),
        ("a scope puts its namespace before the controllers", No("Python names classes by importing them"), "test_controllers::test_the_view_of_another_namespace_is_not_taken"),
        ("routes written with get, post, patch and delete answer these methods", "test_seed_readme::test_router_example_routes_respond_to_the_corresponding_http_method"),
        ("the second and third parameter are the controller and its function", "test_seed_readme::test_router_example"),
        ("`/files/*path` sends all that is below to one action", "test_seed_readme::test_router_example"),
    ],
    "Resources": [
        ("`resources` makes the standard routes", "test_seed_readme::test_resources_are_the_equivalent_of_writing_their_routes"),
        ("the list of equivalent routes, which as printed would hide `new`", "test_seed_readme::test_resources_put_new_before_show_where_the_list_of_the_readme_would_hide_it"),
        ("resources, nested ones too, make named routes with helpers", "test_seed_readme::test_resources_generate_named_routes"),
        ("the project can be loaded into a shell, to explore it interactively", "test_cli::test_a_shell_runs_what_is_piped_into_it"),
        ("each line of the session with its result, with the endpoint and with a conn; one of them prints a path for a URL", "test_seed_readme::test_resources_generate_named_routes"),
        ("a path becomes a URL by the endpoint", "test_seed_readme::test_resources_paths_become_urls_by_the_endpoint"),
    ],
    "Method Overrides": [
        ("forms send no PATCH and DELETE, so POST can be overridden by the parameter `_method`", "test_seed_readme::test_method_overrides_a_form_can_send_delete"),
        ("or by the header `x-http-method-override`", "test_seed_readme::test_method_overrides_a_header_can_do_the_same"),
        ("a form with a button that deletes a post", "test_seed_readme::test_method_overrides_a_form_can_send_delete"),
    ],
    "Controller examples": [
        ("clauses of an action match params; one redirects by a helper, one assigns and renders", "test_seed_readme::test_controller_examples_the_clauses_of_show", "test_seed_readme::test_notes_params_that_no_clause_takes_are_a_bad_request"),
        ("the helpers are imported", "test_seed_readme::test_controller_examples_the_clauses_of_show", "test_router::test_the_conn_has_the_helpers_of_its_router_bound_to_it"),
        ("a private function with options is plugged before the action", "test_seed_readme::test_controller_examples_a_plug_with_options_before_the_action"),
        ("`plug :action`", "test_controllers::test_the_position_of_the_action_may_be_written_and_changes_nothing"),
    ],
    "Views & Templates": [
        ("views render templates", "test_views::test_a_template_of_the_class_body_is_rendered_by_its_name_and_format", "test_views::test_files_of_the_folder_named_like_the_view_are_its_templates"),
        ("functions, imports and the like of the view can be used in its templates", "test_views::test_methods_globals_helpers_and_builtins_mean_something_in_a_template"),
    ],
    "Flash Examples": [
        ("a message persists across a redirect", "test_seed_readme::test_flash_examples_a_message_persists_across_the_redirect_and_is_shown_once"),
        ("`Flash` can be used in all views without an import", "test_seed_readme::test_flash_examples_a_message_persists_across_the_redirect_and_is_shown_once"),
        ("a template shows the message if there is one", "test_seed_readme::test_flash_examples_a_message_persists_across_the_redirect_and_is_shown_once"),
        ("there can be several messages; a template shows them all", "test_seed_readme::test_flash_examples_multiple_messages"),
    ],
    "Rendering from the Controller": [
        ("an action renders a template by name, with a message", "test_seed_readme::test_rendering_from_the_controller_the_name_of_the_controller_decides"),
        ("the view, the folder, the format, the engine and the layout follow from names", "test_seed_readme::test_rendering_from_the_controller_the_name_of_the_controller_decides"),
        ("the name of the application is part of them", "test_controllers::test_the_view_and_the_layout_are_found_in_modules_beside_the_controller"),
        ("the folder of the templates is configured in the view", "test_views::test_the_folder_can_be_chosen_and_a_view_called_view_has_the_root_itself"),
        ("`application` is the default layout", "test_seed_readme::test_rendering_from_the_controller_the_name_of_the_controller_decides"),
        ("every keyword of `render` is an assign in the template", "test_seed_readme::test_rendering_from_the_controller_the_name_of_the_controller_decides", "test_controllers::test_what_render_is_given_wins_and_stays_in_the_conn_but_for_the_layout"),
        ("functions of a view or layout are helpers in its templates", "test_seed_readme::test_rendering_from_the_controller_functions_of_views_are_shared"),
        ("what all views share is written in one view, which they extend: imports, aliases, functions", "test_seed_readme::test_rendering_from_the_controller_functions_of_views_are_shared", "test_views::test_all_views_share_methods_templates_and_names_of_the_one_they_extend"),
        ("that view imports the path helpers and the functions for HTML", "test_views::test_path_helpers_work_in_templates_and_in_their_partials", "test_views::test_methods_globals_helpers_and_builtins_mean_something_in_a_template"),
        ("`render` can be written by hand, here for JSON", "test_seed_readme::test_rendering_from_the_controller_render_can_be_defined_by_hand"),
        ("it gets the name of the action with the extension of the format", "test_seed_readme::test_rendering_from_the_controller_render_can_be_defined_by_hand"),
        ("more about the template language is in its own documentation", "test_templates::test_a_template_renders"),
    ],
    "More on request format": [
        ("the parameter `format` of the query decides first, then the header `accept`, else it is html", "test_seed_readme::test_more_on_request_format_the_query_then_the_header_then_html"),
        ("a content type that was set decides the template", "test_seed_readme::test_more_on_request_format_an_explicit_content_type_chooses_the_template"),
        ("a name without extension is rendered by the content type", "test_seed_readme::test_more_on_request_format_an_explicit_content_type_chooses_the_template"),
        ("which MIME types are supported stands in a file", "test_ground::test_a_format_has_a_media_type"),
    ],
    "More on layouts": [
        ("the view of layouts is called LayoutView, its folder `layout`", "test_seed_readme::test_rendering_from_the_controller_the_name_of_the_controller_decides"),
        ("`put_layout` changes the layout", "test_seed_readme::test_more_on_layouts"),
        ("the content stands in the layout as `@inner`", "test_seed_readme::test_more_on_layouts"),
        ("`put_layout(:none)` leaves it out", "test_seed_readme::test_more_on_layouts"),
    ],
    "Template Engine Configuration": [
        ("eex is there by default", "test_views::test_eex_and_exs_are_built_in_and_an_engine_can_be_taken_away"),
        ("haml is added as a dependency", No("about the package list of Elixir's build tool")),
        ("and its engine is configured for its extension", "test_seed_readme::test_template_engine_configuration"),
        ("any other engine likewise", "test_views::test_an_engine_of_another_kind_makes_the_templates_with_its_extension"),
    ],
    "PubSub": [
        ("messages between the parts of an application: publish and subscribe", "test_seed_channels::test_seed_sample_pubsub_subscribe_and_broadcast"),
        ("`subscribe` takes who subscribes and a topic", "test_seed_channels::test_seed_sample_pubsub_whoever_subscribes_may_be_named_first_as_in_the_seed"),
        ("`broadcast` reaches all subscribers of the topic", "test_seed_channels::test_seed_sample_pubsub_whoever_subscribes_may_be_named_first_as_in_the_seed", "test_pubsub::test_a_message_reaches_every_subscriber_of_its_topic_and_nobody_else"),
        ("a logger prints a line when an action is called, and ignores other messages", "test_pubsub::test_seed_sample_logger_runs_as_a_supervised_child"),
        ("it is a worker of the supervision tree; the action broadcasts", "test_pubsub::test_seed_sample_logger_runs_as_a_supervised_child"),
    ],
    "Channels": [
        ("channels broker websockets and use PubSub", "test_seed_channels::test_seed_sample_broadcast_reaches_all_who_joined_the_topic_and_nobody_else"),
        ("they go both ways, and the connection stays alive after a reply", "test_seed_channels::test_seed_sample_broadcast_reaches_all_who_joined_the_topic_and_nobody_else"),
        ("what leads over to the samples: it will become clearer, here is an example, let us recap", _SAID_BELOW),
        ("a channel is a module that uses Channel, in the folder `channels`", "test_cli::test_readme_setup_new", "test_seed_channels::test_seed_sample_join_authorizes_one_topic_and_refuses_the_others"),
        ("`join` authorizes a topic and refuses others", "test_seed_channels::test_seed_sample_join_authorizes_one_topic_and_refuses_the_others"),
        ("who is let in is subscribed to the topic", "test_seed_channels::test_seed_sample_broadcast_reaches_all_who_joined_the_topic_and_nobody_else"),
        ("who is refused has no access to it", "test_seed_channels::test_seed_sample_who_is_refused_hears_and_says_nothing_on_the_topic"),
        ("a topic is joined before anything is sent or received", "test_seed_channels::test_seed_sample_who_is_refused_hears_and_says_nothing_on_the_topic", "phoenix.test.mjs: a push before join is an error that says what to do"),
        ("events are matched by name and message", "test_seed_channels::test_seed_sample_events_are_matched_by_name_and_message"),
        ("`reply` sends to one socket", "test_seed_channels::test_seed_sample_reply_sends_an_event_to_this_client_alone"),
        ("events have names such as `subject:event`", "test_seed_channels::test_seed_sample_events_are_matched_by_name_and_message"),
        ("`broadcast` sends to all who joined the topic", "test_seed_channels::test_seed_sample_broadcast_reaches_all_who_joined_the_topic_and_nobody_else"),
        ("a message to the socket itself comes as the event `info`, to all its channels, as it was sent", "test_seed_channels::test_seed_sample_a_message_to_the_own_connection_comes_as_the_event_info", "test_channels::test_info_comes_to_all_channels_of_a_connection_with_the_value_itself"),
        ("in the browser: a new Socket, and `join` with channel, topic, message and callback", "phoenix.test.mjs: sample: new Phoenix.Socket and socket.join with a token", "test_chat::test_seed_sample_join_on_send_and_leave"),
        ("/js/phoenix.js is included", "test_packaging::test_an_installed_endpoint_with_channels_serves_the_client"),
        ("the router mounts a socket at a path, and channels under names", "test_seed_channels::test_seed_sample_mount_and_channel_have_to_be_those_of_the_router"),
        ("the mount has to be that of the client", "test_seed_channels::test_seed_sample_mount_and_channel_have_to_be_those_of_the_router"),
        ("so has the name of the channel", "test_seed_channels::test_seed_sample_mount_and_channel_have_to_be_those_of_the_router"),
        ("and the name of the topic", "test_seed_channels::test_seed_sample_join_authorizes_one_topic_and_refuses_the_others"),
        ("the callback gets the channel, listens to an event and sends one", "phoenix.test.mjs: sample: a callback that listens for pong and sends ping", "test_chat::test_seed_sample_join_on_send_and_leave"),
        ("a channel may send an event `join` while it lets in", "test_seed_channels::test_seed_sample_join_and_error_are_sent_only_by_the_app_itself"),
        ("which the client handles after it got the channel", "phoenix.test.mjs: sample: the join event that the server sends while joining, before or after its reply"),
        ("a channel may send an event `error` while it refuses", "test_seed_channels::test_seed_sample_join_and_error_are_sent_only_by_the_app_itself"),
        ("which the client handles like others", "phoenix.test.mjs: sample: the error event that the server sends while refusing, before or after its reply", "test_chat::test_seed_sample_a_refused_join_hears_the_error_that_the_app_sends"),
        ("neither is sent by itself: to these clients the server says nothing", "test_channels::test_a_conversation_in_0_7_where_only_the_app_answers", "test_channels::test_scenes_in_v2"),
    ],
    "Holding state in socket connections": [
        ("`assign` in `join` keeps state for the events of the socket", "test_seed_channels::test_seed_sample_state_is_held_in_the_socket"),
        ("for as long as the connection lasts", "test_channels::test_state_is_kept_for_each_topic_and_connection"),
        ("a path is on the page's host by ws, another host is named in full", "phoenix.test.mjs: sample: sockets on another host", "phoenix.test.mjs: a path is an end point on the page's host, by wss when the page came by https"),
        ("both sides can leave", "test_seed_channels::test_seed_sample_a_client_leaves_a_topic", "phoenix.test.mjs: leave takes a message for the server, or a time-out"),
        ("`trigger` calls the bindings by hand, for tests", "phoenix.test.mjs: trigger calls the bindings without a server", "test_chat::test_seed_sample_trigger_calls_the_bindings_of_this_page"),
    ],
    "Configuration": [
        ("there is a configuration for each environment, which a variable names", "test_endpoint::test_the_environment_comes_from_a_variable"),
        ("it is dev where the variable does not exist", "test_seed_readme::test_configuration_the_environment_is_dev_where_the_variable_does_not_exist"),
    ],
    "Configuration file structure": [
        ("config/ holds a base and a file for each environment", "test_config::test_the_environment_chooses_the_file", "test_config::test_dicts_are_merged_key_by_key_and_the_later_file_wins"),
    ],
    "Configuration for SSL": [
        ("https is configured with port, host, key and certificate, here from variables", "test_tls::test_one_app_answers_on_both_ports"),
        ("key and certificate are looked for in `priv`", "test_tls::test_relative_paths_are_looked_for_beside_the_app_and_in_its_priv"),
        ("a relative path without the name of the application is an error", No("the app's folder is known without it"), "test_tls::test_a_mistake_is_found_when_the_app_is_defined"),
        ("absolute paths are taken as they are", "test_tls::test_one_app_answers_on_both_ports"),
        ("a path can be made absolute from the place of the file", No("about Elixir's Path; in Python it is pathlib's")),
    ],
    "Serving Your Application Behind a Proxy": [
        ("`url` has the host and port of the proxy, and the helpers use them", "test_endpoint::test_readme_serving_your_application_behind_a_proxy"),
        ("`http` has the host and port to listen on", "test_endpoint::test_the_address_to_listen_on_is_an_option_and_an_argument"),
        ("these and other options are written in the file of the environment, for each endpoint", "test_config::test_options_take_effect_wherever_they_come_from", "test_config::test_each_endpoint_has_a_section_of_its_own"),
    ],
    "Configuration for Sessions": [
        ("a cookie keeps the session; its name and the secret are options", "test_seed_readme::test_configuration_for_sessions"),
        ("actions put and get values", "test_seed_readme::test_configuration_for_sessions", "test_session::test_a_value_that_was_put_can_be_read_at_once_as_in_the_readme_of_phoenix"),
        ("key and secret are required", No("the key, which is the name of the cookie, has a default"), "test_seed_readme::test_configuration_for_sessions_the_secret_is_required"),
    ],
    "Custom Not Found and Error Pages": [
        ("failures are rendered by the ErrorView of the application", "test_seed_readme::test_custom_not_found_and_error_pages_the_error_view_is_found_beside_the_router"),
        ("`debug_errors` shows a page for debugging, and is off by default", No("in dev it is on, as the apps that `new` made had it"), "test_seed_readme::test_custom_not_found_and_error_pages_debug_errors_show_details_and_are_off_otherwise", "test_errors::test_the_debug_page_is_on_in_dev_only_unless_it_is_asked_for"),
        ("`render_errors` is the view", "test_seed_readme::test_custom_not_found_and_error_pages", "test_errors::test_render_errors_takes_a_view"),
        ("it renders templates named by status and format", "test_seed_readme::test_custom_not_found_and_error_pages"),
        ("the generated application has an ErrorView to customize", "test_cli::test_in_production_it_answers_with_its_error_pages"),
    ],
    "Plug.Exception": [
        ("an exception tells its status, NoRouteError 404", "test_seed_readme::test_plug_exception_an_exception_says_its_status", "test_errors::test_readme_plug_exception"),
        ("an exception of the app has `plug_status`", "test_seed_readme::test_plug_exception_an_exception_says_its_status"),
        ("an exception of others is given a status", "test_seed_readme::test_plug_exception_the_status_of_an_existing_exception_is_registered"),
    ],
    "Mix Tasks": [
        ("`new` makes an application", "test_cli::test_readme_setup_new"),
        ("`routes` prints the routes, of a router that may be named", "test_cli::test_readme_mix_tasks_routes", "test_cli::test_routes_finds_the_router"),
        ("`server` starts the server", "test_cli::test_readme_mix_tasks_server"),
        ("`--help` prints help", "test_cli::test_readme_mix_tasks_help"),
    ],
    "Static Assets": [
        ("files of priv/static are served by default, at the root", "test_seed_readme::test_static_assets_are_served_from_priv_static_at_the_root", "test_static::test_readme_static_assets"),
        ("options switch them off or move them", "test_seed_readme::test_static_assets_are_served_from_priv_static_at_the_root", "test_static::test_at_moves_the_files_below_a_path"),
    ],
    "Documentation": [
        ("there is documentation of the API", "test_seed_readme::test_documentation_every_public_name_has_a_docstring"),
    ],
    "Development, Contributing, Important links": [
        ("there are no guidelines; how to take part; where people meet", _PAGE),
        ("phoenix.coffee is built by the CoffeeScript compiler", No("phoenix.js is JavaScript and needs no build"), "phoenix.test.mjs: a script tag gives the global Phoenix, and no other name"),
    ],
    "Feature Roadmap": [
        ("routing: words for GET, POST, PUT, PATCH and DELETE", "test_router::test_each_verb_has_a_word_and_a_route_answers_only_its_own"),
        ("routing: named helpers", "test_router::test_a_helper_writes_the_path_of_a_route"),
        ("routing: resources", "test_router::test_resources_are_eight_routes_in_the_order_of_matching"),
        ("routing: scopes", "test_router::test_scopes_nest_and_join_their_paths_and_names"),
        ("routing: routes of members and collections", "test_router::test_member_routes_are_those_of_one_item_and_collection_routes_those_of_all"),
        ("configuration: by environment", "test_config::test_the_environment_chooses_the_file"),
        ("configuration: files", "test_config::test_what_a_file_says_goes_before_the_code_and_is_gone_without_it"),
        ("middleware: connections pass through plugs", "test_plug::test_plugs_run_in_the_order_they_are_written_with_the_options_they_were_given"),
        ("middleware: code is reloaded", "test_reload::test_the_next_request_runs_what_was_saved_in_any_module_of_the_app", "test_views::test_a_changed_file_shows_at_the_next_request_in_dev_only"),
        ("middleware: logging with levels, by environment", "test_logging::test_the_least_level_depends_on_the_environment_and_is_an_option"),
        ("middleware: static files", "test_static::test_readme_static_assets"),
        ("controllers: html, json and text", "test_controllers::test_responses_have_their_content_type_and_status_200"),
        ("controllers: redirects", "test_controllers::test_a_redirect_sends_the_client_to_a_path_of_this_site"),
        ("controllers: plugs around actions", "test_controllers::test_plugs_run_before_the_actions_they_are_for_in_the_order_of_writing"),
        ("controllers: error pages", "test_errors::test_readme_custom_not_found_and_error_pages"),
        ("controllers: error pages by environment", "test_errors::test_the_debug_page_is_on_in_dev_only_unless_it_is_asked_for"),
        ("views: compiled beforehand", "test_controllers::test_views_are_found_and_compiled_when_the_endpoint_is_made"),
        ("views: I18n", "test_i18n::test_templates_translate_without_the_conn_and_escape", "test_i18n::test_param_session_cookie_and_header_are_asked_in_this_order", "test_seed_readme::test_rendering_from_the_controller_functions_of_views_are_shared"),
        ("realtime: many channels over one websocket", "test_channels::test_a_topic_keeps_its_order_while_topics_do_not_wait_for_each_other"),
        ("realtime: a client for browsers", "test_chat::test_two_windows_chat_and_what_is_said_is_escaped"),
        ("realtime: clients for iOS and Android", No("phones cannot be tested here; the clients that exist speak the same messages as those of the tests"), "test_channels::test_scenes_in_v2", "test_interop::test_a_plain_websocket_speaks_v2", "test_interop::test_a_version_of_phoenix_js_gets_along_with_the_server"),
    ],
}  # fmt: skip

NOTES: dict[str, list[tuple[str, ...]]] = {
    "Endpoint": [
        ("the notes are based on a book and the guides", _PAGE),
        ("it handles requests up to the router: starts the server, applies configuration and the plugs common to all requests", "test_endpoint::test_the_default_plugs_parse_override_and_answer_head", "test_endpoint::test_more_plugs_run_in_front_of_the_router_in_their_order", "test_endpoint::test_run_serves_until_it_is_asked_to_stop", "test_config::test_options_take_effect_wherever_they_come_from"),
        ("it is a supervised process of the application", No("it is the root of the tree: it supervises its children, and is supervised by what starts programs"), "test_supervision::test_children_start_one_after_the_other_and_stop_in_reverse", "test_supervision::test_a_server_whose_child_crashes_too_often_stops_and_says_so"),
        ("each request begins and ends in it", "test_endpoint::test_a_request_is_logged_when_it_comes_and_when_its_response_goes"),
        ("the plugs that it holds are common to all requests", "test_endpoint::test_a_subclass_has_a_stack_of_its_own"),
        ("a socket tells the browser that code has changed", "test_reload::test_changed_code_loads_the_page_again_and_an_error_goes_by_itself", "test_reload::test_a_style_sheet_is_swapped_without_a_load"),
        ("there can be several, each with its own supervision tree", "test_seed_readme::test_notes_several_endpoints_live_in_one_application", "test_supervision::test_an_endpoint_that_gives_up_leaves_the_other_alone_and_the_exit_status_tells_of_it"),
    ],
    "Routes": [
        ("a verb is one clause", "test_seed_readme::test_notes_a_verb_is_one_clause_and_resources_are_eight"),
        ("resources are 8 clauses", "test_seed_readme::test_notes_a_verb_is_one_clause_and_resources_are_eight"),
        ("fewer with `only` or `except`", "test_seed_readme::test_notes_resources_are_restricted_by_only_and_except"),
        ("any may be nested", "test_seed_readme::test_notes_any_of_these_routes_may_be_nested_and_scoped"),
        ("any may be scoped", "test_seed_readme::test_notes_any_of_these_routes_may_be_nested_and_scoped"),
        ("`as` in a scope reduces duplication", "test_seed_readme::test_notes_as_in_a_scope_reduces_duplication"),
        ("`as` for scoped routes eliminates unreachable paths", "test_seed_readme::test_notes_as_for_scoped_routes_eliminates_unreachable_paths"),
        ("`as` of a scope names the helpers inside it", "test_seed_readme::test_notes_as_in_a_scope_reduces_duplication"),
        ("`as` of a single route", "test_seed_readme::test_notes_as_for_a_single_route"),
        ("a route may leave its action out", "test_router::test_without_an_action_a_controller_answers_with_index"),
        ("singleton resources, and the word `resource`", "test_seed_readme::test_notes_singleton_routes"),
        ("a path without its slash works, and is warned of", "test_seed_readme::test_notes_a_scope_without_a_slash_works_and_warns"),
    ],
    "The accepts plug": [
        ("it looks at the header Accept, not at Content-Type", "test_seed_readme::test_notes_accepts_looks_at_accept_and_not_at_the_content_type"),
        ("without the header the response is rendered as usual", "test_seed_readme::test_notes_accepts_looks_at_accept_and_not_at_the_content_type"),
        ("an unsupported type is an error, in these words", "test_seed_readme::test_notes_accepts_looks_at_accept_and_not_at_the_content_type", "test_controllers::test_the_message_of_406_lists_what_was_asked_for_and_what_there_is"),
        ("whose page is Markdown for such a client", "test_errors::test_clients_that_take_no_html_get_markdown"),
    ],
    "Plug": [
        ("request and response are one connection", "test_seed_readme::test_notes_one_connection_passes_through_function_plugs_and_module_plugs", "test_conn::test_a_fresh_conn_holds_a_request_and_no_response_yet"),
        ("a module plug has init, for its options, and call", "test_seed_readme::test_notes_one_connection_passes_through_function_plugs_and_module_plugs"),
        ("call is what a function plug is", "test_plug::test_whatever_takes_a_conn_and_returns_it_is_a_plug"),
    ],
    "Controllers": [
        ("controllers are plugs themselves", "test_seed_readme::test_notes_controllers_are_themselves_plugs"),
        ("`json` renders what can be encoded, such as a map", "test_seed_readme::test_notes_text_json_and_html_need_neither_view_nor_template", "test_controllers::test_what_has_no_form_in_json_is_refused"),
        ("`text`, `json` and `html` need neither view nor template", "test_seed_readme::test_notes_text_json_and_html_need_neither_view_nor_template"),
        ("the parameter `_format` changes the format", "test_seed_readme::test_notes_the_format_changes_with_the_format_parameter_and_is_else_the_first_accepted"),
        ("else it is the first that the pipeline accepts", "test_seed_readme::test_notes_the_format_changes_with_the_format_parameter_and_is_else_the_first_accepted"),
        ("keys and values of params are strings", "test_seed_readme::test_notes_all_keys_and_values_of_params_are_strings"),
        ("params can be scrubbed", "test_seed_readme::test_notes_scrubbing_params"),
        ("which makes no sense for an API", No("advice: scrubbing is asked for, action by action"), "test_params::test_scrub_params_turns_blanks_under_one_key_into_none"),
        ("a PUT that worked is 200 or 204", "test_controllers::test_status_codes_for_changes_are_one_word_away"),
        ("a DELETE 200, 204, or 202 when it is only accepted", "test_controllers::test_status_codes_for_changes_are_one_word_away", "test_seed_readme::test_notes_an_empty_response_and_its_status"),
        ("a response without content", "test_seed_readme::test_notes_an_empty_response_and_its_status"),
    ],
    "Views": [
        ("views are like decorators or facades", No("a comparison"), "test_views::test_views_render_json_of_views"),
        ("a function of the layout's view is a local call in the layout", "test_seed_readme::test_notes_a_function_of_the_layout_view_is_a_local_call_in_the_layout"),
        ("templates are functions of their view", "test_seed_readme::test_notes_render_clauses_by_hand_are_the_same_as_templates"),
        ("templates are compiled beforehand, and in memory when they are rendered", "test_views::test_all_is_compiled_once_and_nothing_is_read_when_rendering"),
        ("a clause of `render` can take the place of a template", "test_seed_readme::test_notes_render_clauses_by_hand_are_the_same_as_templates"),
        ("`render` of the own view, and of another one that is named", "test_views::test_templates_render_templates_of_their_own_view_and_of_others"),
        ("a clause can render another template, or return text as an error view does", "test_seed_readme::test_notes_render_clauses_by_hand_are_the_same_as_templates"),
        ("a clause that renders itself is an endless loop", "test_seed_readme::test_notes_a_clause_that_renders_itself_does_not_loop_for_ever"),
        ("any template can be rendered in the shell", "test_seed_readme::test_notes_any_template_renders_in_the_shell", "test_cli::test_a_shell_runs_what_is_piped_into_it"),
        ("a layout renders the view and the template of the page", "test_seed_readme::test_notes_a_function_of_the_layout_view_is_a_local_call_in_the_layout", "test_views::test_the_page_is_rendered_once_in_whichever_way_the_layout_asks_for_it"),
        ("a view formats data as a map, which becomes JSON", "test_seed_readme::test_notes_views_format_data_and_the_framework_encodes_it"),
        ("JSON can come straight from the controller", "test_seed_readme::test_notes_text_json_and_html_need_neither_view_nor_template"),
        ("errors are rendered by templates, as HTML and as JSON", "test_seed_readme::test_custom_not_found_and_error_pages"),
        ("pages for debugging against those of the error view", "test_seed_readme::test_custom_not_found_and_error_pages_debug_errors_show_details_and_are_off_otherwise"),
        ("a compiled template is the same as a function written by hand", "test_seed_readme::test_notes_render_clauses_by_hand_are_the_same_as_templates"),
        ("`@user` reads the assign, as from a map: nothing when it is missing", "test_seed_readme::test_notes_an_assign_is_looked_up_in_the_map_and_is_nothing_when_missing", "test_views::test_in_dev_a_missing_assign_is_logged_once_with_its_line"),
    ],
    "Assets": [
        ("a project made without a bundler had to be given one by hand", No("there is no bundler: files are served as they are"), "test_static::test_readme_static_assets"),
    ],
}  # fmt: skip

DOCUMENTS = {"the README of Phoenix 0.7.2": README, "notes on later Phoenix": NOTES}
ROWS = [(name, heading, *row) for name, document in DOCUMENTS.items() for heading, rows in document.items() for row in rows]


@cache
def names_in(file: str) -> frozenset[str]:
    """Return the names of the tests of a file, as it stands."""
    source = (TESTS / file).read_text("utf-8")
    if file.endswith(".mjs"):
        return frozenset(re.findall(r'^test\("([^"\n]*)"', source, re.MULTILINE))
    return frozenset(
        node.name
        for node in ast.parse(source).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    )


def split(test: str) -> tuple[str, str]:
    """Return file and name of a test of the table."""
    if "::" in test:
        module, name = test.split("::")
        return f"{module}.py", name
    file, name = test.split(": ", 1)
    return file, name


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[1]}: {row[2]}")
def test_what_is_said_has_tests_that_exist_or_a_reason(row: tuple[str, ...]) -> None:
    shown = row[3:]
    assert shown, "neither a test nor a reason"
    missing = [test for test in shown if not isinstance(test, No) and split(test)[1] not in names_in(split(test)[0])]
    assert missing == []


def named_after_the_documents() -> Iterator[str]:
    for file in sorted(TESTS.glob("test_*.py")):
        all_are = file.stem in ("test_seed_readme", "test_seed_channels")
        for name in sorted(names_in(file.name)):
            if all_are or name.startswith(("test_readme_", "test_seed_sample_")):
                yield f"{file.stem}::{name}"
    yield from (f"phoenix.test.mjs: {name}" for name in sorted(names_in("phoenix.test.mjs")) if name.startswith("sample: "))


@pytest.mark.parametrize("test", list(named_after_the_documents()))
def test_each_test_that_is_named_after_the_documents_stands_in_the_table(test: str) -> None:
    assert any(test in row for row in ROWS)


def test_nothing_is_said_twice_under_one_heading() -> None:
    said = [row[:3] for row in ROWS]
    assert len(said) == len(set(said))


if __name__ == "__main__":
    for document, headings in DOCUMENTS.items():
        print(f"# {document}")
        for heading, rows in headings.items():
            print(f"\n## {heading}\n")
            for said, *shown in rows:
                print(f"- {said}", *(f"({each})" if isinstance(each, No) else each for each in shown), sep="\n    ")
        print()
